"""A gRPC client in grpcio against echo_server.py, given as host:port. One line for each check; exit status 1 if one fails."""

import sys
import time
import traceback

import grpc

CALLS = []


def check(function):
    CALLS.append(function)
    return function


def expect(seen, wanted):
    assert seen == wanted, f"{seen!r} in place of {wanted!r}"


@check
def unary(channel):
    call = channel.unary_unary("/raw.Echo/Unary")
    for size in (0, 1, 1000, 100_000):
        expect(len(call(b"x" * size, timeout=10)), size)


@check
def server_stream(channel):
    replies = list(channel.unary_stream("/raw.Echo/ServerStream")(b"a", timeout=10))
    expect(replies, [b"%d:a" % number for number in range(10)])


@check
def client_stream(channel):
    reply = channel.stream_unary("/raw.Echo/ClientStream")(iter([b"12345"] * 100), timeout=10)
    expect(reply, b"100 messages, 500 bytes")


@check
def bidi_in_lockstep(channel):
    """The second message is sent only after the first reply has come, so nothing may wait for the end."""
    replies = []

    def requests():
        for number in range(50):
            while len(replies) < number:
                time.sleep(0.001)
            yield b"%d" % number

    for reply in channel.stream_stream("/raw.Echo/Bidi")(requests(), timeout=20):
        replies.append(reply)
    expect(replies, [b"%d" % number for number in range(50)])


@check
def metadata_both_ways(channel):
    sent = [("x-echo-text", "a, b"), ("x-echo-bin", bytes(range(256)))]
    _, call = channel.unary_unary("/raw.Echo/Unary").with_call(b"", metadata=sent, timeout=10)
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    for key, value in sent:
        expect(initial.get(key), value)
        expect(trailing.get(key), value)
    expect(trailing.get("x-trailing"), "yes")


def failure(call, metadata, timeout=10):
    try:
        answer = call(b"", metadata=metadata, timeout=timeout)
        if not isinstance(answer, bytes):
            list(answer)
    except grpc.RpcError as error:
        return error
    raise AssertionError("no failure")


@check
def every_status_code(channel):
    for method, kind in (("Unary", channel.unary_unary), ("ServerStream", channel.unary_stream)):
        call = kind(f"/raw.Echo/{method}")
        for code in list(grpc.StatusCode)[1:]:
            details = f"details of {code.name}: 100 %"
            error = failure(call, [("want-code", str(code.value[0])), ("want-details", details)])
            expect(error.code(), code)
            expect(error.details(), details)


@check
def unknown_method(channel):
    expect(failure(channel.unary_unary("/raw.Echo/Missing"), []).code(), grpc.StatusCode.UNIMPLEMENTED)


@check
def deadline(channel):
    start = time.monotonic()
    error = failure(channel.unary_unary("/raw.Echo/Unary"), [("want-wait", "30")], timeout=0.3)
    expect(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    took = time.monotonic() - start
    assert 0.25 < took < 3, f"{took} s for a deadline of 0.3 s"
    expect(channel.unary_unary("/raw.Echo/SawCancel")(b"", timeout=10), b"yes")


@check
def cancellation_reaches_the_server(channel):
    call = channel.unary_unary("/raw.Echo/Unary").future(b"", metadata=[("want-wait", "30")], timeout=60)
    time.sleep(0.3)
    call.cancel()
    assert call.cancelled()
    expect(channel.unary_unary("/raw.Echo/SawCancel")(b"", timeout=10), b"yes")


@check
def messages_of_4_mib(channel):
    payload = bytes(range(256)) * (4 << 12)
    expect(len(payload), 4 << 20)
    for _ in range(3):
        assert channel.unary_unary("/raw.Echo/Unary")(payload, timeout=30) == payload, "another payload came back"
    replies = list(channel.stream_stream("/raw.Echo/Bidi")(iter([payload] * 4), timeout=60))
    assert replies == [payload] * 4, f"{[len(reply) for reply in replies]}"


@check
def calls_at_once(channel):
    call = channel.unary_unary("/raw.Echo/Unary")
    futures = [call.future(b"%d" % number, timeout=30) for number in range(300)]
    expect([future.result() for future in futures], [b"%d" % number for number in range(300)])


def main():
    size = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
    failed = 0
    with grpc.insecure_channel(sys.argv[1], options=size) as channel:
        for call in CALLS:
            start = time.monotonic()
            try:
                call(channel)
                print(f"ok     {call.__name__} {time.monotonic() - start:.3f} s", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {call.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"done, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
