// The reference: what the relay does, on Node's own socket.io, without history, token or checks.
// With "recovery" as second argument, it keeps what a client misses while it is away, in memory.
const { Server } = require("socket.io");

const [, , port, recovery] = process.argv;
const server = require("http").createServer();
const io = new Server(server, recovery === "recovery" ? { connectionStateRecovery: {} } : {});
let seq = 0;
io.on("connection", (socket) => {
  if (socket.handshake.auth.viewer !== false && !socket.recovered) {
    socket.emit("history", { captions: [], more: false });
    socket.join("live");
  }
  socket.on("predict", (prediction, acknowledge) => {
    seq += 1;
    io.to("live").emit("prediction", { ...prediction, seq });
    acknowledge({ ok: true, seq });
  });
});
server.listen(Number(port), "127.0.0.1", () => console.log("ready"));
