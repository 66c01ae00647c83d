"""`outrider top`: the service live in a terminal, with keys for what an operator does. Needs the extra `top`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ClassVar, Protocol, cast

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Label, RichLog, Sparkline, Static

from outrider_supervisor.client import ClientError
from outrider_supervisor.control_commands import Command, Dump, Recycle, Reload, Scale
from outrider_supervisor.counting import count
from outrider_supervisor.status import Status
from outrider_supervisor.text_format import format_duration, plain
from outrider_supervisor.top_view import COLUMNS, Order, cells, headline, operation_line, rates_line, sorted_rows

PERIOD = 1.0
"""Seconds between two looks."""
SILENCE = 3.0
"""Seconds after which it is told that a supervisor does not answer."""
KEPT_RATES = 300
"""Looks that the line of requests a second shows."""


class Client(Protocol):
    """What talks to the supervisor."""

    def status(self) -> dict[str, Any]:
        """What the supervisor knows of itself. Raises ClientError."""

    def run(self, command: Command) -> Iterator[dict[str, Any]]:
        """Have a command carried out. Raises ClientError."""


class Question(ModalScreen[bool]):
    """Asks before something is done."""

    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)", "Yes"), ("n,escape", "answer(False)", "No")]
    CSS = """
    Question { align: center middle; }
    Question Vertical { width: auto; max-width: 70; height: auto; border: round $accent; padding: 1 2; }
    Question Label { width: auto; max-width: 64; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """textual: what is on the screen."""
        with Vertical():
            yield Label(self._text, markup=False)
            yield Label("y: yes    n: no", markup=False)

    def action_answer(self, answer: bool) -> None:
        """Answer, and go."""
        self.dismiss(answer)


class Details(ModalScreen[None]):
    """Shows what may be long."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,enter", "dismiss", "Close")]
    CSS = """
    Details { align: center middle; }
    Details VerticalScroll { width: 90%; height: 80%; border: round $accent; padding: 0 1; }
    Details Static { width: auto; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """textual: what is on the screen."""
        with VerticalScroll():
            yield Static(self._text, markup=False)


class Top(App[None]):
    """The screen."""

    TITLE = "outrider top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "reload", "Reload"),
        Binding("plus", "scale(1)", "One more", key_display="+"),
        Binding("minus", "scale(-1)", "One fewer", key_display="-"),
        Binding("c", "recycle", "Recycle worker"),
        Binding("d", "dump", "Dump worker"),
        Binding("less_than_sign,left", "sort(-1)", "Sort", key_display="<"),
        Binding("greater_than_sign,right", "sort(1)", "Sort", key_display=">"),
        Binding("i", "turn", "Turn the order"),
        Binding("q", "quit", "Quit"),
    ]
    CSS = """
    #head, #rates, #operation { height: 1; padding: 0 1; }
    #operation { color: $warning; }
    #history { height: 2; margin: 0 1; }
    #workers { height: 1fr; }
    #events { height: 8; border-top: solid $primary; padding: 0 1; }
    """

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._client = client
        self._clock = clock
        self._asked_at: float | None = None
        """When the answer that is awaited was asked for."""
        self._order = Order()
        self._status: Status | None = None
        self._rates: deque[float] = deque(maxlen=KEPT_RATES)
        self._events_shown: list[Any] = []

    def compose(self) -> ComposeResult:
        """textual: what is on the screen."""
        yield Static(id="head", markup=False)
        yield Static(id="rates", markup=False)
        yield Sparkline(id="history", summary_function=max)
        yield Static(id="operation", markup=False)
        yield DataTable(id="workers", cursor_type="row")
        yield RichLog(id="events", wrap=True)
        yield Footer()

    def on_mount(self) -> None:
        """textual: begin to look."""
        self.query_one(DataTable).focus()
        self._look()
        self.set_interval(PERIOD, self._look)

    # -- what is shown

    def _look(self) -> None:
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
            self._in_thread(self._ask)
        elif now - self._asked_at >= SILENCE:
            self._show_problem(f"no answer for {format_duration(now - self._asked_at)}")

    def _in_thread(self, work: Callable[[], None]) -> None:
        """Do what waits for the supervisor: one that hangs must not hang the terminal, nor keep who leaves."""
        # A thread of textual's own would be waited for at the end.
        threading.Thread(target=work, daemon=True).start()

    def _then(self, show: Callable[..., object], *args: object, **options: object) -> None:
        """In such a thread: have something shown, if there still is a screen."""

        def try_to_show() -> None:
            with suppress(NoMatches):  # it is being taken down: somebody leaves
                show(*args, **options)

        with suppress(RuntimeError):
            self.call_later(try_to_show)

    def _ask(self) -> None:
        try:
            status = cast("Status", self._client.status())
        except ClientError as error:
            self._then(self._show_problem, str(error))
        else:
            self._then(self.show, status)
        self._asked_at = None

    def _show_problem(self, problem: str) -> None:
        self.query_one("#operation", Static).update(plain(problem))

    def show(self, status: Status) -> None:
        """Show a status."""
        self._status = status
        now = time.time()
        self.query_one("#head", Static).update(headline(status, now))
        self.query_one("#rates", Static).update(rates_line(status.get("rates")))
        self.query_one("#operation", Static).update(operation_line(status, now))
        self._rates.append(status.get("rates", {}).get("requests_per_second") or 0.0)
        self.query_one(Sparkline).data = [0.0, *self._rates]  # or the lowest rate would look like none
        self._show_workers()
        self._show_events(status)

    def _show_workers(self) -> None:
        if self._status is None:
            return
        table = self.query_one(DataTable)
        chosen, at = self._chosen(), table.scroll_offset
        table.clear(columns=True)
        table.add_columns(*(_aligned(each) for each in self._order.headings()))
        for index, row in enumerate(sorted_rows(self._status, self._order)):
            pid = row.worker["pid"]
            table.add_row(*(_aligned(each) for each in cells(row)), key=str(pid))
            if pid == chosen:
                table.move_cursor(row=index, scroll=False)
        table.scroll_to(at.x, at.y, animate=False)

    def _show_events(self, status: Status) -> None:
        log = self.query_one(RichLog)
        for event in status["events"]:
            if event not in self._events_shown:
                level = "" if event["level"] == "info" else f"{event['level']}: "
                moment = time.strftime("%H:%M:%S", time.localtime(event["at"]))
                log.write(plain(f"{moment}  {level}{event['text'].strip().partition(chr(10))[0]}"))
        self._events_shown = list(status["events"])

    def _chosen(self) -> int | None:
        """The worker that the cursor is on."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return int(key) if key else None

    # -- keys

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """textual: a heading was clicked."""
        self._sort_by(event.column_index)

    def action_sort(self, step: int) -> None:
        """Sort by the next column, or the one before."""
        self._sort_by((self._order.column + step) % len(COLUMNS))

    def action_turn(self) -> None:
        """Turn the order round."""
        self._sort_by(self._order.column)

    def _sort_by(self, column: int) -> None:
        self._order = self._order.chosen(column)
        self._show_workers()

    def action_reload(self) -> None:
        """Reload, if that is meant."""
        self._confirm("Reload the code and the configuration?", Reload())

    def action_scale(self, step: int) -> None:
        """One worker more or fewer, if that is meant."""
        if self._status is not None:
            wanted = max(1, self._status["target"] + step)
            self._confirm(f"Serve with {count(wanted, 'worker')}?", Scale(wanted))

    def action_recycle(self) -> None:
        """Replace the worker that is chosen, if that is meant."""
        pid = self._chosen()
        if pid is not None:
            self._confirm(f"Replace worker {pid}?", Recycle(pid))

    def action_dump(self) -> None:
        """Show what the worker that is chosen does, if that is meant."""
        pid = self._chosen()
        if pid is not None:
            self._confirm(f"Have worker {pid} write what it is doing?", Dump(pid))

    def _confirm(self, question: str, command: Command) -> None:
        def decide(answer: bool | None) -> None:
            if answer:
                self._in_thread(lambda: self._carry_out(command))

        self.push_screen(Question(question), decide)

    def _carry_out(self, command: Command) -> None:
        try:
            *_, outcome = self._client.run(command)
        except ClientError as error:
            self._then(self.notify, plain(str(error)), severity="error", markup=False)
            return
        severity = "information" if outcome["ok"] else "error"
        self._then(self.notify, plain(outcome["message"]), severity=severity, markup=False)
        details = outcome.get("details", "").strip("\n")
        if details:
            self._then(self._show_details, plain(details))

    def _show_details(self, details: str) -> None:
        self.push_screen(Details(details))


def _aligned(cell: str) -> Text:
    return Text(cell, justify="right")
