// The reference: what the relay does, on Node's own socket.io, without history, token or checks.
const { Server } = require("socket.io");

const server = require("http").createServer();
const io = new Server(server);
let seq = 0;
io.on("connection", (socket) => {
  if (socket.handshake.auth.viewer !== false) {
    socket.emit("history", { captions: [], more: false });
    socket.join("live");
  }
  socket.on("predict", (prediction, acknowledge) => {
    seq += 1;
    io.to("live").emit("prediction", { ...prediction, seq });
    acknowledge({ ok: true, seq });
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("ready"));
