"""Where the chunks of a schedule lie in a buffer."""

from __future__ import annotations

from dataclasses import dataclass

from hpcdist.schedule.ir import Schedule


@dataclass(frozen=True)
class Layout:
    """Where each chunk lies, in elements: parts of `count` elements, then near-equal ones of `input_count`.

    The parts are near-equal unless `starts` says where each begins.
    """

    chunks: int
    count: int
    input_chunks: int = 0
    input_count: int = 0
    starts: tuple[int, ...] | None = None

    @classmethod
    def near_equal(cls, schedule: Schedule, count: int, input_count: int = 0) -> Layout:
        """The layout of `schedule` for a buffer of `count` elements and an input of `input_count`."""
        return cls(schedule.chunks, count, schedule.input_chunks, input_count)

    @property
    def length(self) -> int:
        """Elements of the buffer and the input together."""
        return self.count + self.input_count

    def start(self, chunk: int) -> int:
        """The first element of a chunk; the input follows the buffer in one row of elements."""
        if self.starts and chunk < self.chunks:
            return self.starts[chunk]
        if chunk <= self.chunks:
            return self.count * chunk // self.chunks
        return self.count + self.input_count * (chunk - self.chunks) // self.input_chunks
