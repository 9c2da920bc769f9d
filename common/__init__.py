"""What the servers share: settings, state folder, host checks, listening, pages, the supervisor.

The ground floor: nothing here imports `captioner`, `app1`, `app2` or `SocketIO_server`.
"""
