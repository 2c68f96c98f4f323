"""gRPC's interoperability cases, in grpcio. Usage: interop_client.py HOST:PORT cases | rpc_soak|channel_soak CALLS SECONDS

One line for each case, `ok NAME` or `FAILED NAME`; exit status 1 if one failed. A soak makes at least CALLS calls, and goes on
until SECONDS are over; it ends with the line `soak CALLS calls, FAILED failed`.
"""

import queue
import sys
import time
import traceback

import grpc
from interop_wire import LOAD, SERVICE, both, decode

CASES = []
# Of a call that is not about its deadline, on a machine that others use.
PATIENCE = 20
UP, DOWN = 271_828, 314_159
SENT, WANTED = [27_182, 8, 1_828, 45_904], [31_415, 9, 2_653, 58_979]


def case(function):
    CASES.append(function)
    return function


def expect(seen, wanted):
    assert seen == wanted, f"{str(seen)[:200]!r} in place of {str(wanted)[:200]!r}"


def unary(channel, method):
    return channel.unary_unary(SERVICE + method, *both(method))


def duplex(channel):
    return channel.stream_stream(SERVICE + "Duplex", *both("Duplex"))


def until_no_call_is_open(channel):
    """What a client gave up ends at the server as well; the last count."""
    end = time.monotonic() + PATIENCE
    while True:
        census = unary(channel, "Calls")({}, timeout=PATIENCE)
        if not census.get("open"):
            return census.get("given_up", 0)
        assert time.monotonic() < end, f"still open at the server: {census}"
        time.sleep(0.01)


class Feed:
    """A stream of messages, one at a time."""

    def __init__(self):
        self.queue = queue.Queue()

    def __iter__(self):
        return iter(self.queue.get, None)

    def send(self, message):
        self.queue.put(message)

    def end(self):
        self.queue.put(None)


def failure(read):
    """How a call fails whose answer `read` reads."""
    try:
        read()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no failure")


@case
def empty_unary(channel):
    expect(unary(channel, "Empty")({}, timeout=PATIENCE), {})


@case
def large_unary(channel):
    answer = unary(channel, "Unary")({"payload": bytes(UP), "sizes": [DOWN]}, timeout=PATIENCE)
    expect((len(answer["payload"]), answer["received"]), (DOWN, UP))
    assert not any(answer["payload"]), "other bytes came back"


@case
def client_streaming(channel):
    collect = channel.stream_unary(SERVICE + "Collect", *both("Collect"))
    answer = collect(({"payload": bytes(size)} for size in SENT), timeout=PATIENCE)
    expect(answer["received"], 74_922)


@case
def server_streaming(channel):
    split = channel.unary_stream(SERVICE + "Split", *both("Split"))
    expect([len(answer["payload"]) for answer in split({"sizes": WANTED}, timeout=PATIENCE)], WANTED)


@case
def ping_pong(channel):
    feed = Feed()
    call = duplex(channel)(iter(feed), timeout=PATIENCE)
    for sent, wanted in zip(SENT, WANTED):
        feed.send({"payload": bytes(sent), "sizes": [wanted]})
        expect(len(next(call)["payload"]), wanted)
    feed.end()
    expect(list(call), [])


@case
def empty_stream(channel):
    call = duplex(channel)(iter([]), timeout=PATIENCE)
    expect(list(call), [])
    expect(call.code(), grpc.StatusCode.OK)


@case
def timeout_on_sleeping_server(channel):
    # The first may be over before it is sent; the second is not.
    for timeout in (0.001, 0.3):
        feed = Feed()
        call = duplex(channel)(iter(feed), timeout=timeout)
        feed.send({"payload": bytes(27_182)})
        expect(failure(lambda: list(call)).code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        feed.end()
    until_no_call_is_open(channel)


@case
def cancel_after_begin(channel):
    feed = Feed()
    call = channel.stream_unary(SERVICE + "Collect", *both("Collect")).future(iter(feed), timeout=PATIENCE)
    call.cancel()
    expect(call.code(), grpc.StatusCode.CANCELLED)
    feed.end()
    until_no_call_is_open(channel)


@case
def cancel_after_first_response(channel):
    before, feed = until_no_call_is_open(channel), Feed()
    call = duplex(channel)(iter(feed), timeout=PATIENCE)
    feed.send({"payload": bytes(27_182), "sizes": [31_415]})
    expect(len(next(call)["payload"]), 31_415)
    call.cancel()
    expect(failure(lambda: list(call)).code(), grpc.StatusCode.CANCELLED)
    feed.end()
    expect(until_no_call_is_open(channel), before + 1)


def ends_with(channel, code, message):
    ask = {"failure": {"code": code.value[0], "message": message}}
    reads = (
        lambda: unary(channel, "Unary")(ask, timeout=PATIENCE),
        lambda: list(duplex(channel)(iter([ask]), timeout=PATIENCE)),
    )
    for error in map(failure, reads):
        expect((error.code(), error.details()), (code, message))


@case
def status_code_and_message(channel):
    ends_with(channel, grpc.StatusCode.UNKNOWN, "test status message")


@case
def special_status_message(channel):
    message = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
    ends_with(channel, grpc.StatusCode.UNKNOWN, message)


@case
def custom_metadata(channel):
    initial, trailing = ("x-case-initial", "test_initial_metadata_value"), ("x-case-trailing-bin", b"\xab\xab\xab")
    ask = {"payload": bytes(UP), "sizes": [DOWN]}
    _, first = unary(channel, "Unary").with_call(ask, timeout=PATIENCE, metadata=(initial, trailing))
    second = duplex(channel)(iter([ask]), timeout=PATIENCE, metadata=(initial, trailing))
    expect([len(answer["payload"]) for answer in second], [DOWN])
    for call in (first, second):
        expect(dict(call.initial_metadata()).get(initial[0]), initial[1])
        expect(dict(call.trailing_metadata()).get(trailing[0]), trailing[1])


@case
def unimplemented_method(channel):
    call = channel.unary_unary(SERVICE + "Missing")
    expect(failure(lambda: call(b"", timeout=PATIENCE)).code(), grpc.StatusCode.UNIMPLEMENTED)


@case
def unimplemented_service(channel):
    call = channel.unary_unary("/mesh.interop.v1.Missing/Empty")
    expect(failure(lambda: call(b"", timeout=PATIENCE)).code(), grpc.StatusCode.UNIMPLEMENTED)


@case
def orca_per_rpc(channel):
    load = {"cpu": 0.8210, "memory": 0.5847, "request_cost": {"cost": 3456.32}, "utilization": {"util": 0.30499}}
    _, call = unary(channel, "Unary").with_call({"per_call": load}, timeout=PATIENCE)
    # grpcio keeps ORCA's own field, which comes beside it, to itself.
    report = dict(call.trailing_metadata()).get("x-case-load-bin")
    assert report, f"no report in {call.trailing_metadata()}"
    expect(decode(LOAD, report), load)


@case
def orca_oob(channel):
    watch = channel.unary_stream(SERVICE + "Watch", *both("Watch"))({}, timeout=PATIENCE)
    feed = Feed()
    call = duplex(channel)(iter(feed), timeout=PATIENCE)
    for cpu, memory, util in ((0.8210, 0.5847, 0.30499), (0.29309, 0.2, 0.2039)):
        load = {"cpu": cpu, "memory": memory, "utilization": {"util": util}}
        feed.send({"out_of_band": load, "sizes": [1]})
        expect(len(next(call)["payload"]), 1)
        while next(watch) != load:
            pass
    feed.end()
    expect(list(call), [])
    watch.cancel()
    until_no_call_is_open(channel)


def soak(target, kind, calls, seconds):
    """Each call is over within a second on an idle machine; what is late fails at its deadline."""
    made, failed, end = 0, 0, time.monotonic() + seconds
    channel = grpc.insecure_channel(target)
    while made < calls or time.monotonic() < end:
        if kind == "channel_soak":
            channel.close()
            channel = grpc.insecure_channel(target)
        made += 1
        try:
            large_unary(channel)
        except (grpc.RpcError, AssertionError):
            failed += 1
            print(traceback.format_exc(), flush=True)
    channel.close()
    print(f"soak {made} calls, {failed} failed", flush=True)
    return failed


def run_cases(target):
    failed = 0
    with grpc.insecure_channel(target) as channel:
        for run in CASES:
            try:
                run(channel)
                print(f"ok {run.__name__}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {run.__name__}\n{traceback.format_exc()}", flush=True)
    return failed


def main():
    target, kind, *rest = sys.argv[1:]
    failed = run_cases(target) if kind == "cases" else soak(target, kind, int(rest[0]), float(rest[1]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
