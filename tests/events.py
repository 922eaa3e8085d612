"""What TensorBoard shows of a folder of its files."""

import struct


def shown_by_tensorboard(folder):
    """The scalars, ``{(step, name): number}``: those of steps that a later file begins with are hidden."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown = {}
    for path in sorted(folder.iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (size,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + size])  # a checksum stands before and after it
            place += size + 16
            if event.session_log.status == SessionLog.START:
                shown = {(step, name): number for (step, name), number in shown.items() if step < event.step}
            shown |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    return shown
