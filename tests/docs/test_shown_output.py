from __future__ import annotations

import pytest

from outrider_testing.shown_output import find, match


@pytest.mark.parametrize(
    "shown, printed",
    [
        ("", ""),
        ("done", "done\n"),
        ("up 6s, 127.0.0.1:8000", "up 1m12s, 127.0.0.1:8000\n"),
        ("[2026-11-21 16:39:00 +0000] [32299] [INFO] x", "[2027-01-02 06:09:10 +0000] [7] [INFO] x"),
        ("   28691 ready   1s    0    -     12M", "12 ready   12s   58k   20%   112.5M"),
        ("12 requests, 50%", "9916 requests, 5%"),
        ("first\n…\nlast", "first\nlast"),
        ("first\n…\nlast", "first\na\nb\nlast"),
        ('{"pid": 28691, …}', '{"pid": 1, "name": "shop"}'),
        ("200", "200"),
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r"),
        ("outrider 0.1.0", "outrider 1.12.3"),
        ("date: Sat, 21 Nov 2026 21:58:19 GMT", "date: Tue, 1 Dec 2026 00:00:01 GMT"),
        ("since Sat 2026-11-21 21:51:39 UTC; 1s ago", "since Sun 2026-11-22 00:30:55 UTC; 93ms ago"),
        ("7s ago", "1min 2s ago"),
        ("CPU: 864ms", "CPU: 1min 2.034s"),
        ("7 of its 7 responses were 5xx (100%)", "8 of its 9 responses were 5xx (89%)"),
        ("Nov 21 09:05:03 vm outrider[128]: ready", "Dec  1 10:11:12 vm outrider[7]: ready"),
    ],
)
def test_number_and_width_may_differ(shown: str, printed: str) -> None:
    assert match(shown, printed) is not None


@pytest.mark.parametrize(
    "shown, printed",
    [
        ("", "warning"),
        ("done", "failed"),
        ("done", "done\nand more"),
        ("done\nand more", "done"),
        ("1 worker ready", "1 worker stuck"),
        ("0", "1"),
        ("HTTP/1.1 200 OK", "HTTP/1.1 500 OK"),
        ("first\n…\nlast", "first\na"),
        ("pid (1)", "pid [1]"),
        ("since Sat 2026-11-21", "since Now 2026-11-21"),
        ("Sat is a day", "Sun is a day"),
        ("Nov 21", "21 21"),
        ('{class="2xx"} 300.0', '{class="5xx"} 300.0'),
    ],
)
def test_words_and_statuses_may_not_differ(shown: str, printed: str) -> None:
    assert match(shown, printed) is None


def test_process_ids_of_a_page_are_found_in_this_run() -> None:
    assert match("worker 32434 is ready, 4 of 4", "worker 71 is ready, 2 of 2") == {"32434": "71"}
    assert match("1000 requests", "58k requests") == {}


def test_log_has_other_lines_between_those_shown() -> None:
    assert find("[32299] starts\n[32299] ready", "noise\n[7] starts\nnoise\n[7] ready\nnoise") == {"32299": "7"}
    assert find("[32299] ready\n[32299] starts", "[7] starts\n[7] ready") is None
    assert find("", "noise") == {}
