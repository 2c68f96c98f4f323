"""The service of proto/interop.proto in grpcio. Prints `listening PORT` when it serves."""

import argparse
import queue
import threading
from concurrent import futures

import grpc
from interop_wire import LOAD, METHODS, SERVICE, decode, encode

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Census:
    """Calls that are open, and calls whose clients gave up."""

    def __init__(self):
        self.lock, self.open, self.given_up = threading.Lock(), 0, 0

    def begin(self, context):
        call = {"done": False}
        with self.lock:
            self.open += 1
        if not context.add_callback(lambda: self.end(call)):
            self.end(call)
        return call

    def end(self, call):
        with self.lock:
            self.open -= 1
            self.given_up += not call["done"]

    def count(self):
        with self.lock:
            return {"open": self.open, "given_up": self.given_up}


class Board:
    """The load that is told out of band, and who watches it."""

    def __init__(self):
        self.lock, self.load, self.watchers = threading.Lock(), {}, []

    def set(self, load):
        with self.lock:
            self.load = load
            for watcher in self.watchers:
                watcher.put(load)

    def watch(self):
        watcher = queue.Queue()
        with self.lock:
            watcher.put(self.load)
            self.watchers.append(watcher)
        return watcher


census, board = Census(), Board()


def obey(ask, context, call):
    """What a message asks for besides payloads. Raises when it asks for a failure."""
    if "out_of_band" in ask:
        board.set(ask["out_of_band"])
    if "per_call" in ask:
        load = encode(LOAD, ask["per_call"])
        context.set_trailing_metadata((("endpoint-load-metrics-bin", load), ("x-case-load-bin", load)))
    failure = ask.get("failure")
    if failure:
        call["done"] = True
        context.abort(CODES[failure.get("code", 0)], failure.get("message", ""))


def echo_metadata(context):
    sent = dict(context.invocation_metadata())
    if "x-case-initial" in sent:
        context.send_initial_metadata((("x-case-initial", sent["x-case-initial"]),))
    if "x-case-trailing-bin" in sent:
        context.set_trailing_metadata((("x-case-trailing-bin", sent["x-case-trailing-bin"]),))


def empty(_request, context):
    census.begin(context)["done"] = True
    return {}


def unary(ask, context):
    call = census.begin(context)
    echo_metadata(context)
    obey(ask, context, call)
    call["done"] = True
    return {"payload": bytes(sum(ask.get("sizes", []))), "received": len(ask.get("payload", b""))}


def collect(asks, context):
    call = census.begin(context)
    received = sum(len(ask.get("payload", b"")) for ask in asks)
    call["done"] = True
    return {"received": received}


def split(ask, context):
    call = census.begin(context)
    for size in ask.get("sizes", []):
        yield {"payload": bytes(size)}
    call["done"] = True


def duplex(asks, context):
    call = census.begin(context)
    echo_metadata(context)
    received = 0
    for ask in asks:
        received += len(ask.get("payload", b""))
        obey(ask, context, call)
        for size in ask.get("sizes", []):
            yield {"payload": bytes(size), "received": received}
    call["done"] = True


def watch(_request, context):
    call = census.begin(context)
    watcher = board.watch()
    context.add_callback(lambda: watcher.put(None))
    while (load := watcher.get()) is not None:
        yield load
    call["done"] = True


def calls(_request, _context):
    return census.count()


KINDS = {
    "Empty": (grpc.unary_unary_rpc_method_handler, empty),
    "Unary": (grpc.unary_unary_rpc_method_handler, unary),
    "Collect": (grpc.stream_unary_rpc_method_handler, collect),
    "Split": (grpc.unary_stream_rpc_method_handler, split),
    "Duplex": (grpc.stream_stream_rpc_method_handler, duplex),
    "Watch": (grpc.unary_stream_rpc_method_handler, watch),
    "Calls": (grpc.unary_unary_rpc_method_handler, calls),
}


def handler(method):
    kind, function = KINDS[method]
    asked, given = METHODS[method]
    return kind(function, lambda data: decode(asked, data), lambda message: encode(given, message))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(32))
    handlers = {method: handler(method) for method in KINDS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers),))
    port = server.add_insecure_port(f"[::]:{options.port}")
    server.start()
    print(f"listening {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
