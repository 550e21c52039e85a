"""Defaults of the client's arguments, named once for the awaited and the blocking form. Times in seconds."""

from typing import Final

TIMEOUT_S: Final = 30.0  # deadline of a call that is not a stream
IN_FLIGHT: Final = 64  # unanswered ticks of a stream
LEARN_IN_FLIGHT: Final = 256  # unacknowledged labels and windows of a sender
GIVE_UP_S: Final = 60.0  # without any success, a stream, Mux or sender fails
ANSWER_S: Final = 30.0  # a call that owes an answer for longer is cut and repeated
CLOSE_S: Final = 5.0  # longest wait for the server's disk when closing
