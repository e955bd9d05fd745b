"""One websocket to ComfyUI."""

from dataclasses import dataclass

import websocket


@dataclass(frozen=True)
class Connection:
    """A websocket, and the client id that ComfyUI knows it by."""

    client_id: str
    socket: websocket.WebSocket

    def is_open(self) -> bool:
        """Returns whether ComfyUI has not closed it; reads what arrived between two runs."""
        self.socket.settimeout(0)
        try:
            while self.socket.recv_data()[0] != websocket.ABNF.OPCODE_CLOSE:
                pass
        except BlockingIOError:
            return True
        except (websocket.WebSocketException, OSError):
            pass
        return False

    def close(self) -> None:
        self.socket.close(timeout=0)
        # close() leaves the file descriptor open if the server closed first.
        self.socket.shutdown()  # type: ignore[no-untyped-call]
