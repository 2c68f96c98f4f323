"""The messages of proto/interop.proto as dictionaries, in protobuf's wire format, without generated code.

A field that is absent has its default, as in proto3; what is not in a message's table is skipped.
"""

import struct

SERVICE = "/mesh.interop.v1.Cases/"
LOAD = {1: ("cpu", "double"), 2: ("memory", "double"), 4: ("request_cost", "map"), 5: ("utilization", "map")}
FAILURE = {1: ("code", "uint"), 2: ("message", "text")}
NOTHING = {}
ASK = {
    1: ("payload", "bytes"),
    2: ("sizes", "uints"),
    3: ("failure", FAILURE),
    4: ("per_call", LOAD),
    5: ("out_of_band", LOAD),
}
ANSWER = {1: ("payload", "bytes"), 2: ("received", "uint")}
CENSUS = {1: ("open", "uint"), 2: ("given_up", "uint")}
PAIR = {1: ("key", "text"), 2: ("value", "double")}

# Methods by name: what they take, what they give.
METHODS = {
    "Empty": (NOTHING, NOTHING),
    "Unary": (ASK, ANSWER),
    "Collect": (ASK, ANSWER),
    "Split": (ASK, ANSWER),
    "Duplex": (ASK, ANSWER),
    "Watch": (NOTHING, LOAD),
    "Calls": (NOTHING, CENSUS),
}


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(table, message):
    out = bytearray()
    for number, (name, kind) in table.items():
        if name not in message:
            continue
        value = message[name]
        if kind == "uint":
            out += varint(number << 3) + varint(value)
        elif kind == "double":
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        else:
            for content in contents(kind, value):
                out += varint(number << 3 | 2) + varint(len(content)) + content
    return bytes(out)


def contents(kind, value):
    """What a field with a length holds; one for each entry of a map."""
    if kind == "bytes":
        return [value]
    if kind == "text":
        return [value.encode()]
    if kind == "uints":
        return [b"".join(map(varint, value))]
    if kind == "map":
        return [encode(PAIR, {"key": key, "value": item}) for key, item in value.items()]
    return [encode(kind, value)]


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def varint(self):
        number = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def take(self, count):
        taken = self.data[self.at : self.at + count]
        self.at += count
        return bytes(taken)


def decode(table, data):
    reader, message = Reader(data), {}
    while reader.at < len(data):
        number, wire = divmod(reader.varint(), 8)
        name, kind = table.get(number, (None, None))
        if wire == 0:
            value = reader.varint()
        elif wire == 1:
            value = struct.unpack("<d", reader.take(8))[0]
        else:
            value = reader.take(reader.varint())
        if name:
            take_over(message, name, kind, value)
    return message


def take_over(message, name, kind, value):
    if kind == "text":
        message[name] = value.decode()
    elif kind == "uints":
        # Packed or one by one.
        reader, many = Reader(value if isinstance(value, bytes) else varint(value)), []
        while reader.at < len(reader.data):
            many.append(reader.varint())
        message[name] = message.get(name, []) + many
    elif kind == "map":
        pair = decode(PAIR, value)
        message.setdefault(name, {})[pair.get("key", "")] = pair.get("value", 0.0)
    elif isinstance(kind, dict):
        message[name] = decode(kind, value)
    else:
        message[name] = value


def both(method):
    """How to write what `method` takes and how to read what it gives."""
    asked, given = METHODS[method]
    return (lambda message: encode(asked, message)), (lambda data: decode(given, data))
