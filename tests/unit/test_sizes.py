"""Sizes in bytes, read and written."""

import click
import pytest

from hpcdist.util.sizes import BYTES, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("8", 8),
        ("8B", 8),
        (" 64 B ", 64),
        ("4K", 4096),
        ("4k", 4096),
        ("64KiB", 65536),
        ("1.5MiB", 1572864),
        (".5K", 512),
        ("2g", 2 << 30),
        ("1TiB", 1 << 40),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_read_in_powers_of_1024(text, nbytes):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no size"),
        ("many", "no size"),
        ("-8", "no size"),
        ("4iB", "write 4 or 4B"),
        ("4MB", "write 4MiB"),
        ("1.3", "whole number"),
    ],
)
def test_what_is_no_size_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (8, "8 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (4 << 20, "4 MiB"), (3 << 50, "3072 TiB")],
)
def test_sizes_are_written_short(nbytes, text):
    assert format_bytes(nbytes) == text


def test_the_click_type_reads_text_and_keeps_numbers():
    assert BYTES.convert("4K", None, None) == 4096
    assert BYTES.convert(12, None, None) == 12
    with pytest.raises(click.BadParameter, match="write 4MiB"):
        BYTES.convert("4MB", None, None)
