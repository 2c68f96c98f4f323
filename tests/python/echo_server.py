"""A gRPC server in grpcio without generated code: raw bytes in all four call kinds.

Prints `listening PORT` when it serves. Paths are /raw.Echo/METHOD; each method echoes, and what a client wants
otherwise it says in metadata: `want-code` (a number) and `want-details`, `want-wait` (seconds before the answer).
"""

import argparse
import threading
import time
from concurrent import futures

import grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}
cancelled = threading.Event()


def obey(context):
    """Echoes metadata, then waits or fails as the client asks."""
    wanted = dict(context.invocation_metadata())
    echoed = [(key, value) for key, value in wanted.items() if key.startswith("x-echo-")]
    context.send_initial_metadata(echoed)
    context.set_trailing_metadata([("x-trailing", "yes")] + echoed)
    if "want-wait" in wanted:
        context.add_callback(lambda: None if context.is_active() else cancelled.set())
        end = time.monotonic() + float(wanted["want-wait"])
        while time.monotonic() < end and context.is_active():
            time.sleep(0.01)
    if "want-code" in wanted:
        context.abort(CODES[int(wanted["want-code"])], wanted.get("want-details", ""))


def unary(request, context):
    obey(context)
    return request


def server_stream(request, context):
    obey(context)
    for number in range(10):
        yield b"%d:" % number + request


def client_stream(requests, context):
    received = list(requests)
    obey(context)
    return b"%d messages, %d bytes" % (len(received), sum(map(len, received)))


def bidi(requests, context):
    context.send_initial_metadata([])
    for request in requests:
        yield request


def saw_cancel(_request, _context):
    """Whether a call that waited has been given up by its client; waits a little for the news."""
    seen = cancelled.wait(5)
    cancelled.clear()
    return b"yes" if seen else b"no"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    size = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=size)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "SawCancel": grpc.unary_unary_rpc_method_handler(saw_cancel),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("raw.Echo", handlers),))
    port = server.add_insecure_port(f"[::]:{options.port}")
    server.start()
    print(f"listening {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
