"""gunicorn's threaded worker, changed so that clients that are slow on purpose keep nobody else out.

gunicorn gives a thread to each connection that has sent a byte, and waits in that thread for the rest. A
few connections that send nothing more then stop the server for everybody. Here each connection has one
request, and goes through three phases:

1. **Head.** The main thread collects the heads of all connections' requests at once, without waiting for
   any of them. A head must be complete within ``HEAD_SECONDS``.
2. **Request.** A thread of the pool checks the request (``gate``) and answers it. It waits only for clients
   that have the token: for the body of a request, or until a long answer is taken. It gives up when
   nothing has moved for ``STALL_SECONDS``.
3. **End.** The answer is sent. What the client still sends is dropped until it closes the connection, at
   most for ``END_SECONDS``. If we closed it first, the client could lose the answer.

So a slow client costs an open file, but no thread. At most ``MAX_WAITING`` connections are in the first and
third phase. One more closes the one that has waited longest. That is not a browser's: a browser sends the
head of a request at once.
"""

import errno
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from gunicorn.http.errors import NoMoreData
from gunicorn.workers.gthread import TConn, ThreadWorker

HEAD_SECONDS = 10.0
STALL_SECONDS = 10.0
END_SECONDS = 2.0
MAX_WAITING = 160  # some systems allow a process no more than 256 open files
MAX_CONNECTIONS = 200  # including those whose request has a thread, or waits for one
MAX_HEAD_BYTES = 2**16


class Connection(TConn):  # type: ignore[misc]  # gunicorn ships no types
    """A connection, with what has come so far of the head of its request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.head = bytearray()

    def init(self) -> None:
        """Give the collected head to the parser, which must not wait for more of it."""
        super().init()
        self.parser.unreader.unread(bytes(self.head))
        self.sock.setblocking(False)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """The child process of gunicorn that serves requests."""

    def init_process(self) -> None:
        """Set up the process and serve until it is told to stop."""
        # When each connection that is in no thread will be closed, the longest waiting first.
        self.waiting: dict[Connection, float] = {}
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection and wait for its request's head."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and self.waiting:
                self._close(next(iter(self.waiting)))
            return
        self.nr_conns += 1
        connection = Connection(self.cfg, client, address, listener.getsockname())
        self._wait(connection, self._read_head, HEAD_SECONDS)

    def handle(self, connection: Connection) -> None:
        """Answer the request of a connection; runs in a thread of the pool."""
        request = None
        try:
            connection.init()
            request = next(connection.parser)
            connection.sock.settimeout(STALL_SECONDS)
            self.handle_request(request, connection)
        except (NoMoreData, StopIteration, ConnectionError, TimeoutError, BlockingIOError) as error:
            self.log.debug("A client left or stopped sending: %s", error)
        except OSError:  # too late for another answer
            self.log.exception("The answer to a request broke off")
        except Exception as error:
            self.handle_error(request, connection.sock, connection.client, error)

    def finish_request(self, connection: Connection, _answered: object) -> None:
        """End a connection whose request was answered; runs in the main thread."""
        try:
            connection.sock.shutdown(socket.SHUT_WR)
            connection.sock.setblocking(False)
        except OSError:  # the client has left
            self._close(connection)
        else:
            self._wait(connection, self._read_rest, END_SECONDS)

    def murder_pending(self) -> None:
        """Close the connections that have waited too long; gunicorn calls this about once a second."""
        now = time.monotonic()
        for connection in [each for each, deadline in self.waiting.items() if deadline <= now]:
            self._close(connection)

    def _wait(self, connection: Connection, read: Callable[[Connection], None], seconds: float) -> None:
        """Call ``read`` whenever a connection has data, until it closes it or the time is over."""
        if len(self.waiting) >= MAX_WAITING:
            self._close(next(iter(self.waiting)))
        self.waiting[connection] = time.monotonic() + seconds
        # One batch of events may still hold this call after the connection was closed.
        self.poller.register(
            connection.sock,
            selectors.EVENT_READ,
            lambda _: read(connection) if connection in self.waiting else None,
        )

    def _stop_waiting(self, connection: Connection) -> None:
        if self.waiting.pop(connection, None) is not None:
            self.poller.unregister(connection.sock)

    def _close(self, connection: Connection) -> None:
        self._stop_waiting(connection)
        self.nr_conns -= 1
        connection.close()

    def _read_head(self, connection: Connection) -> None:
        data = self._receive(connection)
        connection.head += data
        if b"\r\n\r\n" in connection.head.lstrip(b"\r\n") or len(connection.head) > MAX_HEAD_BYTES:
            self._stop_waiting(connection)
            self.enqueue_req(connection)
        elif not data:
            self._close(connection)

    def _read_rest(self, connection: Connection) -> None:
        if not self._receive(connection):
            self._close(connection)

    def _receive(self, connection: Connection) -> bytes:
        """Return what a connection has sent; nothing if the client has closed it."""
        try:
            return bytes(connection.sock.recv(MAX_HEAD_BYTES))
        except OSError:
            return b""
