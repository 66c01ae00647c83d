from __future__ import annotations

import itertools

import pytest

from loads import LOADS, Feature, Load, Page, Tool

WEBSOCKET = [load for load in LOADS.values() if load.page is Page.WEBSOCKET]


@pytest.mark.parametrize("load", WEBSOCKET, ids=lambda load: load.key)
def test_message_is_as_long_as_its_load_says(load: Load) -> None:
    assert len(load.body) == (16384 if "16 KB" in load.title else 64)
    assert load.expected == load.body
    assert (load.unit, load.is_websocket) == ("message", True)


def test_websocket_loads_are_of_two_sizes_two_numbers_of_connections_with_and_without_compression() -> None:
    kinds = {(len(load.body), load.connections, Feature.DEFLATE in load.needs) for load in WEBSOCKET if not load.held}
    assert kinds == set(itertools.product((64, 16384), (32, 1000), (False, True)))


def test_load_names_its_connections_readably() -> None:
    assert LOADS["websocket-16kb-1000-deflate"].title == "16 KB echo, 1 000 connections, permessage-deflate"


def test_http2_loads_come_in_clear_text_and_over_tls() -> None:
    tools = {key: load.tool for key, load in LOADS.items() if Feature.HTTP2 in load.needs}
    assert tools == dict.fromkeys(["h2c-plaintext", "h2-plaintext", "h2c-stream", "h2-stream"], Tool.H2LOAD)
    assert Feature.TLS in LOADS["h2-plaintext"].needs
    assert Feature.TLS not in LOADS["h2c-plaintext"].needs


def test_name_of_a_page_is_not_that_of_a_load() -> None:
    assert not {page.key for page in Page} & LOADS.keys()
