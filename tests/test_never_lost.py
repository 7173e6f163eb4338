"""Whatever stops a run, the same command goes on, and the numbers are those of a run that nothing stopped."""

import contextlib
import dataclasses
import functools
import gc
import json
import logging
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import engine
import jax
import numpy as np
import pytest
from engine import Fork, Mounts, checkpoints, content, half_written, kept_in, lines, logged, same, without_bar, words

from experiments.__main__ import main
from experiments.commands.answering import answered
from experiments.engine.folder import Folder
from experiments.engine.plan import stalled
from experiments.engine.program import Program
from experiments.engine.run import run
from experiments.engine.signals import stop_signals
from experiments.engine.train import Progress
from experiments.engine.watch import Watch, pace
from experiments.errors import UserError, reason
from experiments.reports.claims import judge
from experiments.reports.results import History, Results
from experiments.studies import save
from experiments.studies.published import CLAIMS, decayed_adam, published
from experiments.studies.study import Arm
from experiments.tasks.digits import digits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "compiled"


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    Fork(words(folder), cache).finish()
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


# Killed ---------------------------------------------------------------------------------------------------


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(whole, cache, tmp_path):
    folder, rng, began = tmp_path / "run", random.Random(0), time.monotonic()
    kills, resumed, torn, latest, startup = 0, [], 0, 0, 1.0
    while kills < 8 or len(resumed) < 3 or not torn:
        assert time.monotonic() - began < 150, f"{kills} kills, gone on from {resumed}, {torn} half-written checkpoints"
        attempt, at = Fork(words(folder), cache, seconds_a_piece=0.0), time.monotonic()
        if kills % 4 == 3:  # before the first piece, or just after
            time.sleep(rng.uniform(0, 1.2 * startup))
        else:
            attempt.until(lambda a=attempt: a.resumed_from is not None)
            startup = time.monotonic() - at
            more = attempt.resumed_from + rng.randint(1, 6)  # pieces are single updates
            attempt.until(lambda n=more: lines(folder) >= n)
            time.sleep(rng.uniform(0, 0.1))
        assert attempt.running, attempt.said
        attempt.kill()
        kills, torn = kills + 1, torn + bool(half_written(folder))
        resumed += [attempt.resumed_from] if attempt.resumed_from else []
        # What has been saved stays, and is where the next one begins.
        saved = checkpoints(folder)[-1:] or [0]
        assert latest <= saved[0]
        assert attempt.resumed_from in (None, latest)
        latest = saved[0]
    attempt = Fork(words(folder), cache).finish()
    assert attempt.resumed_from == latest > 0
    same(folder, whole)
    assert not half_written(folder)
    steps = [line["step"] for line in logged(folder)]
    assert steps == sorted({*steps})
    assert {50, 100, 150, engine.STEPS} <= {*steps}
    assert all(("valid_loss" in line) == (line["step"] % 50 == 0) for line in logged(folder))


def test_a_checkpoint_beyond_the_end_is_named(copy, refused):
    saved = copy / "checkpoints"
    shutil.copytree(saved / "200", saved / "300")
    said = refused(*words(copy))
    assert said == f"{saved / '300'} must be a checkpoint after 1 to 200 updates: delete it to go on"


def test_a_damaged_checkpoint_is_named_and_a_half_written_one_is_never_used(copy, whole, cache):
    damaged = copy / "checkpoints" / "200"
    before = checkpoints(copy)[0]
    for damage in ("d/*", "_METADATA", "manifest.ocdbt"):
        shutil.rmtree(damaged)
        shutil.copytree(whole / "checkpoints" / "200", damaged)
        for file in damaged.rglob(damage):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        held = content(copy)
        status, said = Fork(words(copy), cache).wait()
        assert status == 2, said
        assert said.startswith(f"python -m experiments: {damaged} cannot be read (")
        assert said.endswith("): delete it to go on from the one before\n")
        assert said.count("\n") == 1
        assert len(said) < 1000
        assert content(copy) == held
    # Without it the run goes on from the one before, whatever else was being written when a run was killed.
    shutil.copytree(whole / "checkpoints" / "200", copy / "checkpoints" / "200.orbax-checkpoint-tmp")
    damaged.rename(copy / "checkpoints" / "199.orbax-checkpoint-tmp")
    for file in [*(copy / "checkpoints" / "199.orbax-checkpoint-tmp").rglob("*")][::2]:
        file.write_bytes(b"") if file.is_file() else None
    attempt = Fork(words(copy), cache).finish()
    assert 0 < attempt.resumed_from == before < 200
    assert not half_written(copy)
    same(copy, whole)


def test_a_finished_run_without_its_checkpoints_is_not_begun_anew(copy, whole, cache):
    shutil.rmtree(copy / "checkpoints")
    (copy / "report.md").unlink()
    log = (copy / "metrics.jsonl").read_bytes()
    attempt = Fork(words(copy), cache).finish()
    assert attempt.resumed_from == engine.STEPS
    assert (copy / "metrics.jsonl").read_bytes() == log
    assert (copy / "report.md").read_bytes() == (whole / "report.md").read_bytes()
    same(copy, whole)


# Storage that refuses ------------------------------------------------------------------------------------


@pytest.fixture
def mounts():
    with contextlib.closing(Mounts()) as shell:
        if not shell.run("mount -t tmpfs none /mnt"):
            pytest.skip("nothing can be mounted here")
        yield shell


def test_on_a_full_disk_the_run_says_so_and_goes_on_once_there_is_room(mounts, whole, cache, tmp_path):
    (disk := tmp_path / "disk").mkdir()
    sentence = (
        f"python -m experiments: {disk}/run can no longer be written (No space left on device): when it can, the same "
        "command goes on from the last checkpoint"
    )
    assert mounts.run(f"mount -t tmpfs none {disk}")
    for size in ("24k", "150k"):  # a checkpoint takes about a hundred kilobytes
        assert mounts.run(f"mount -o remount,size={size} none {disk}")
        status, said = mounts.fork(words(disk / "run"), cache).wait()
        assert (status, without_bar(said)) == (2, [sentence])
    assert mounts.run(f"mount -o remount,size=64m none {disk}")
    mounts.fork(words(disk / "run"), cache).finish()
    assert mounts.run(f"cp -r {disk}/run {tmp_path}/after")
    same(tmp_path / "after", whole)


SPEC = """[tensorstore_spec='{\\"create\\":true,\\"open\\":true}']"""
FULL = "[os_error_code='28']"


@pytest.mark.parametrize(
    "details", [f"{FULL} {SPEC}", f"{SPEC} {FULL}", f"{FULL} [source locations='a.cc:1\\nb.cc:2']"]
)
def test_what_the_storage_says_of_a_full_disk_is_what_the_system_says(details):
    """Its messages have their details in brackets, in no fixed order."""
    said = (
        'RESOURCE_EXHAUSTED: Error opening "zarr" driver: Failed to write 189 bytes to file 12: No space left on device'
    )
    assert reason(ValueError(f"{said} {details}")) == "No space left on device"


def test_on_a_full_disk_a_report_says_so_too(mounts, copy, cache, tmp_path):
    (disk := tmp_path / "disk").mkdir()
    assert mounts.run(f"mount -t tmpfs -o size=2m none {disk}; cp -r {copy} {disk}/run; rm {disk}/run/*.png")
    assert mounts.run(f"head -c 2m /dev/zero >{disk}/rest 2>/dev/null; truncate -s -20k {disk}/rest")
    status, said = mounts.fork(words(disk / "run"), cache).wait()
    (sentence,) = without_bar(said)
    assert sentence.startswith(f"python -m experiments: {disk}/run can no longer be written (")
    assert sentence.endswith(": No space left on device): when it can, the same command writes the report")
    assert status == 2


def test_a_file_that_grows_too_large_is_one_sentence(whole, cache, tmp_path):
    """Which needs no rights to try, unlike a full disk."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2**13, resource.RLIM_INFINITY))
    status, said = Fork(words(tmp_path / "run"), cache, first=limit).wait()
    (sentence,) = without_bar(said)
    assert "run can no longer be written (File too large): when it can, the same command goes on" in sentence
    assert status == 2
    Fork(words(tmp_path / "run"), cache).finish()
    same(tmp_path / "run", whole)


def test_a_read_only_folder_is_one_sentence(mounts, cache, tmp_path):
    (folder := tmp_path / "disk").mkdir()
    assert mounts.run(f"mount -t tmpfs -o ro none {folder}")
    status, said = mounts.fork(words(folder / "run"), cache).wait()
    reason = f"{folder}/run must be a folder that can be written (Read-only file system)"
    assert without_bar(said) == [f"python -m experiments: {reason}"]
    assert status == 2


@pytest.fixture
def refused(monkeypatch, capsys):
    """What the command says of arguments that it refuses."""
    monkeypatch.setattr("experiments.tasks.digits.DIGITS", engine.SMALL)

    def say(*arguments):
        assert main([*arguments]) == 2
        printed, said = capsys.readouterr()
        assert printed == ""
        assert said.startswith("python -m experiments: ")
        assert said.count("\n") == 1
        return said.removeprefix("python -m experiments: ").strip()

    return say


def test_a_folder_silences_what_fails_in_it_only_while_it_is_open(tmp_path, monkeypatch):
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def settings():
        return sys.unraisablehook, *(logger.level for logger in loggers)

    # After a failure, as in other tests, the silence has stayed.
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.WARNING)
    before = settings()
    with Folder(tmp_path / "run", {}):
        assert all(within != outside for within, outside in zip(settings(), before, strict=True))
        with pytest.raises(UserError, match="another run is writing"):
            Folder(tmp_path / "run", {})
    assert settings() == before


def test_what_is_no_folder_of_a_run_is_refused_and_left_alone(refused, tmp_path):
    (file := tmp_path / "file").write_text("mine")
    (others := tmp_path / "others").mkdir()
    (others / "thesis.tex").write_text("mine")
    held = content(tmp_path)
    for folder, message in {
        file: f"{file} must be a folder that can be written (File exists)",
        file / "run": f"{file}/run must be a folder that can be written (Not a directory)",
        others: f"{others} must be a new or empty folder, or the folder of a run, got one with thesis.tex",
    }.items():
        assert refused(*words(folder)) == message
    assert content(tmp_path) == held
    assert refused(*words("/proc/run")) == "/proc/run must be a folder that can be written (No such file or directory)"


def test_what_takes_the_place_of_a_file_or_folder_of_a_run_is_named(refused, copy):
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").write_text("mine")
    assert refused(*words(copy)) == f"{copy} must be a folder that can be written (checkpoints: File exists)"
    (copy / ".lock").unlink()
    os.mkfifo(copy / ".lock")
    assert refused(*words(copy)) == f"{copy} must be a folder that can be written (.lock: not a regular file)"
    (copy / "report.md").unlink()
    (copy / "report.md").mkdir()
    again = "when it can, the same command writes the report"
    assert refused("report", str(copy)) == f"{copy} can no longer be written (report.md: Is a directory): {again}"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"plan": 3}', '{"plan": null}', '{"plan": {}}', '{"plan": {"ste', "\xff", "[" * 100_000,
     '{"plan": {}, "device": "cpu", "devices": 1, "versions": {}, "resumed": [{"after": Infinity}]}']
)  # fmt: skip
def test_a_config_that_no_run_wrote_is_refused(text, refused, tmp_path):
    (tmp_path / "config.json").write_text(text, encoding="latin1")
    message = f"{tmp_path}/config.json cannot be read as the configuration of a run: choose another folder"
    assert refused(*words(tmp_path)) == message


@pytest.mark.parametrize(
    ("changed", "arms", "difference"),
    [
        (["--steps", "60"], (), "steps 200, not 60"),
        (["--seeds", "2"], (), "seeds [0], not [0, 1]"),
        (["--first-seed", "1"], (), "seeds [0], not [1]"),
        (["--batch-size", "4"], (), "batch size 8, not 4"),
        (["--learning-rate", "0.1"], (), "cosine: learning rate cosine(start=0.014, end=0.0, steps=200), not cosine(start=0.1,"),
        (["--precision", "bfloat16"], (), "precision float32, not bfloat16"),
        (["--title", "other"], (), "title 8x8 digits, not other"),
        (["--early-stopping", "2"], (), "patience None, not 2"),
        (["--gradient-norms", "l1"], (), "gradient norms None, not l1"),
        ([], ("cosine",), "arms ['cosine', 'ema-long'], not ['cosine']"),
        ([], ("cosine", "polyak"), "arms ['cosine', 'ema-long'], not ['cosine', 'polyak']"),
        ([], ("ema-long", "cosine"), "arms ['cosine', 'ema-long'], not ['ema-long', 'cosine']"),
    ],
)  # fmt: skip
def test_a_run_goes_on_under_the_same_plan_only(changed, arms, difference, refused, copy):
    held = content(copy)
    said = refused(*words(copy, **({"arms": arms} if arms else {})), *changed)
    assert said.startswith(f"{copy} holds a run with ")
    assert difference in said
    assert said.endswith(": choose another folder, or delete it")
    assert content(copy) == held


def test_a_run_goes_on_with_the_same_data_only(refused, copy, monkeypatch):
    data = digits()
    other = data._replace(train_labels=data.train_labels[::-1])
    monkeypatch.setattr("experiments.tasks.digits.DIGITS", dataclasses.replace(engine.SMALL, load=lambda _: other))
    assert f"{copy} holds a run with data " in refused(*words(copy))


def test_a_folder_is_one_run_s_until_that_is_dead(refused, cache, tmp_path):
    folder = tmp_path / "run"
    first = Fork(words(folder), cache, seconds_a_piece=0.0)
    first.until(lambda: lines(folder) > 2)
    message = f"another run is writing to {folder}: wait for it, or choose another folder"
    assert refused(*words(folder, steps=60)) == message
    assert first.running
    first.kill()
    assert refused(*words(folder, steps=60)).startswith(f"{folder} holds a run with steps 200, not 60")


# Told to stop --------------------------------------------------------------------------------------------


def test_a_signal_stops_in_order_and_the_same_command_goes_on(whole, cache, tmp_path):
    folder, done = tmp_path / "run", 0
    for number in (signal.SIGINT, signal.SIGTERM):
        stopped, before = Fork(words(folder), cache, seconds_a_piece=0.0), lines(folder)
        stopped.until(lambda held=before: lines(folder) > held + 2)
        stopped.signal(number)
        status, said = stopped.wait()
        assert status == 130, said
        assert said.endswith("Stopped: what has been measured is kept, and the same command goes on from there.\n")
        assert "Traceback" not in said
        assert stopped.resumed_from == done
        done = Results.load(folder / "history.npz").done
        assert stopped.resumed_from < done == checkpoints(folder)[-1] == logged(folder)[-1]["step"] < engine.STEPS
        assert f"{done} of 200 updates, 1 seed" in (folder / "report.md").read_text()
    again = Fork(words(folder), cache).finish()
    assert again.resumed_from == done
    same(folder, whole)


def test_a_first_signal_asks_for_an_end_and_a_second_interrupt_does_not_wait():
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_signals() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGTERM)
        assert stopped()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def endless_program():
    """Says that it has begun, and never ends."""
    endless = jax.jit(
        lambda x: jax.lax.while_loop(lambda x: x > 0, lambda x: x | 1, jax.pure_callback(told_to_have_begun, x, x))
    )
    return endless(np.int32(1)).block_until_ready()


def told_to_have_begun(x):
    print("begins", flush=True)
    return x


def stopped_in_order():
    with stop_signals():
        return endless_program()


def interrupted_while_garbage_is_collected():
    gc.callbacks.append(lambda phase, about: signal.raise_signal(signal.SIGINT))
    gc.collect()
    return 0


def command(program):
    # A job in the background is started deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return answered("command", program)


def test_an_interrupt_where_nothing_can_be_raised_ends_a_command_without_a_word(cache):
    assert Fork(interrupted_while_garbage_is_collected, cache, command=command).wait(30) == (130, "")


@pytest.mark.parametrize("program", [endless_program, stopped_in_order])
def test_a_second_interrupt_ends_at_once_what_never_ends(program, cache):
    attempt = Fork(program, cache, command=command)
    attempt.until(lambda: attempt.said)
    time.sleep(0.3)
    attempt.signal(signal.SIGINT)
    time.sleep(0.3)
    assert attempt.running, "the first was heard while it waited for a device"
    attempt.signal(signal.SIGINT)
    assert attempt.wait(30) == (130, "begins\n")


def test_a_second_interrupt_ends_a_run_at_once_while_it_compiles(tmp_path):
    attempt = Fork(words(tmp_path / "run"), tmp_path / "empty", seconds_a_piece=0.0)
    attempt.until(lambda: "1 arms x 1 seeds, compiling" in attempt.said.replace("2 arms", "1 arms"))
    attempt.signal(signal.SIGINT)
    time.sleep(0.05)
    attempt.signal(signal.SIGINT)
    status, said = attempt.wait(60)
    assert status == 130, said
    assert "Traceback" not in said
    assert "Stopped:" not in said  # neither a report nor a checkpoint was waited for


# Resumed with something else -----------------------------------------------------------------------------


def with_version(folder, version):
    """The configuration of a run that began with another JAX."""
    config = folder / "config.json"
    held = json.loads(config.read_text())
    held["versions"]["jax"] = version
    config.write_text(json.dumps(held))


def test_a_run_resumed_with_other_versions_says_so_there_and_in_its_report(copy, cache):
    (before,) = checkpoints(copy)[:-1]
    shutil.rmtree(copy / "checkpoints" / str(engine.STEPS))
    with_version(copy, "0.1.2")
    sentence = f"Resumed after {before} updates with jax {jax.__version__} (before: 0.1.2)."
    resumed = Fork(words(copy), cache).finish()
    assert resumed.resumed_from == before
    assert resumed.said.count(f"{sentence}\n") == 2  # at once, and in the report
    assert resumed.said.startswith(f"{sentence}\n")
    assert sentence in (copy / "report.md").read_text()
    assert Results.load(copy / "history.npz").changes == (sentence,)
    held = json.loads((copy / "config.json").read_text())
    assert held["versions"]["jax"] == "0.1.2"
    assert [(each["after"], each["versions"]["jax"]) for each in held["resumed"]] == [(before, jax.__version__)]
    again = Fork(words(copy), cache).finish()
    assert again.said.count(sentence) == 1  # in the report
    assert Results.load(copy / "history.npz").changes == (sentence,)


def test_of_a_run_with_nothing_left_to_train_no_change_is_told(copy, cache):
    with_version(copy, "0.1.2")
    assert "Resumed" not in Fork(words(copy), cache).finish().said
    assert Results.load(copy / "history.npz").changes == ()


def test_what_was_changed_for_updates_that_are_lost_is_not_told(tmp_path, monkeypatch):
    def told(step, jax, devices=1):
        found = {"device": "cpu", "devices": devices, "versions": {"jax": jax}}
        monkeypatch.setattr("experiments.engine.folder.machine", lambda: found)
        with Folder(tmp_path / "run", {}) as folder:
            return [sentence for _, sentence in folder.changes(step, goes_on=True)]

    assert told(0, "1") == []
    assert told(0, "2") == []  # nothing had been trained with the first
    second = "Resumed after 1,000 updates with jax 3 (before: 2)."
    assert told(1_000, "3") == [second]
    assert told(1_000, "2") == []  # killed before the next checkpoint
    assert told(1_000, "3") == [second]
    assert told(2_000, "3") == [second]
    third = "Resumed after 2,000 updates with devices 8 (before: 1), jax 4 (before: 3)."
    assert told(2_000, "4", devices=8) == [second, third]
    assert told(1_000, "2") == []  # from an earlier checkpoint


# What is logged ------------------------------------------------------------------------------------------


def measured(*losses, valid=(25, 50, 75, 100), arms=1):
    """A history of one seed with these validation losses, and every training loss 2."""
    shape = arms, 1, len(valid)
    found = np.full(shape, np.nan, np.float32)
    found[..., : len(losses[0])] = np.array(losses)[:, None]
    return History(np.full((arms, 1, 100), 2, np.float32), np.array(valid), found, found / 10)


def watch(folder, step, history, *steps, board=None):
    """Logs a run of two arms that has come to `step`, and then comes to `steps`."""
    with Watch("title", ["one", "other"], 100, step, folder / "metrics.jsonl", board) as log:
        for step in steps:
            log.show(Progress(step, [], history))


def test_pieces_are_logged_as_json_without_nan(tmp_path):
    history = measured([3.0, 2.5], [math.nan, math.inf], arms=2)
    history.train_loss[1, :, 5:] = math.nan
    watch(tmp_path, 0, history, 5, 25)
    first, second = logged(tmp_path)
    assert first.pop("updates_per_second") > 0
    assert first == {"step": 5, "train_loss": {"one": 2.0, "other": 2.0}}
    assert (second["step"], second["train_loss"]) == (25, {"one": 2.0, "other": None})
    assert second["valid_loss"] == {"one": 3.0, "other": None}
    assert second["valid_accuracy"] == {"one": 0.3, "other": None}


def test_what_was_logged_after_the_last_checkpoint_and_half_a_line_are_dropped(tmp_path):
    history = measured([3.0], [3.0], arms=2)
    watch(tmp_path, 0, history, 5, 10, 20)
    for half in (b'{"step": 3, "train_lo', b"{"):
        with (tmp_path / "metrics.jsonl").open("ab") as log:
            log.write(half)
        watch(tmp_path, 10, history, 15)
        assert [line["step"] for line in logged(tmp_path)] == [5, 10, 15]


FOREIGN = [
    b"5", b"null", b'"step"', b"[]", b"{}", b'{"x": 1}', b'{"step": 3}', b'{"step": null, "updates_per_second": 1}',
    b'{"step": "3", "updates_per_second": 1}', b'{"step": 3.5, "updates_per_second": 1}',
    b'{"step": 3, "updates_per_second": 0}', b'{"step": 3, "updates_per_second": NaN}',
    b'{"step": 3, "updates_per_second": [1]}', b'{"step": -1e999, "updates_per_second": 1}',
    b'{"step": %d, "updates_per_second": 1}' % 10**400, b'{"step": ' + b"9" * 5_000 + b"}",
    b"\xff\xfe", b"\0\0\0", b"", b"[" * 100_000, b'{"step":' * 100_000,
]  # fmt: skip


def test_a_log_without_an_end_is_one_sentence(tmp_path):
    history, log = measured([3.0], [3.0], arms=2), tmp_path / "metrics.jsonl"
    for make, why in {
        lambda: os.truncate(log, 2**40): "File too large",
        lambda: (log.unlink(), os.mkfifo(log)): "not a regular file",
    }.items():
        log.touch()
        make()
        with pytest.raises(UserError, match=rf"metrics.jsonl cannot be read as the log of a run \({why}\)$"):
            watch(tmp_path, 10, history)


def test_lines_that_no_run_has_logged_are_dropped_from_the_log(tmp_path):
    history, log = measured([3.0], [3.0], arms=2), tmp_path / "metrics.jsonl"
    watch(tmp_path, 0, history, 5, 10)
    first, second = log.read_bytes().splitlines()
    expected = pace(log)
    for foreign in FOREIGN:
        log.write_bytes(b"\n".join([foreign, first, foreign, second, foreign]))
        assert pace(log) == expected, foreign[:50]
        watch(tmp_path, 10, history)
        assert log.read_bytes().splitlines() == [first, second], foreign[:50]


def test_the_progress_bar_says_that_all_is_compiled_and_starts_its_clock_afterwards(tmp_path, capsys):
    history = measured([3.0], [3.0], arms=2)
    with Watch("title", ["one", "other"], 100, 0, tmp_path / "metrics.jsonl", None) as log:
        assert "title, compiling:   0%|          | 0/100 [00:00<?" in capsys.readouterr().err
        log.bar.start_t, log.bar.last_print_t = log.bar.start_t - 3_600, log.bar.last_print_t - 3_600  # an hour ago
        log.show(Progress(5, [], history))
        said = capsys.readouterr().err
        assert "title:   5%|" in said
        assert "| 5/100 [00:00<?" in said
        assert "compiling" not in said
        log.show(Progress(50, [], history))
    said = capsys.readouterr().err
    assert "title:  50%|" in said
    assert "compiling" not in said
    assert log.bar.format_dict["elapsed"] < 3_600


def test_a_loss_that_diverged_is_shown_in_few_digits(tmp_path, capsys):
    history = measured([3.0], [3.0], arms=2)
    history.train_loss[1] = 1.234e25
    watch(tmp_path, 0, history, 5)
    assert "loss 2.000 one to 1.2e+25 other" in capsys.readouterr().err


def test_tensorboard_is_told_the_same(tmp_path, monkeypatch):
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, tag, value, step):
            told.append((tag, str(value), step))

        def close(self):
            told.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    watch(tmp_path, 24, measured([3.0], [math.nan], arms=2), 25, board=tmp_path / "board")
    assert told[0] == (str(tmp_path / "board"), 25)
    assert told[1:-1] == [
        ("train_loss/one", "2.0", 25), ("train_loss/other", "2.0", 25),
        ("valid_loss/one", "3.0", 25), ("valid_loss/other", "nan", 25),
        ("valid_accuracy/one", "0.3", 25), ("valid_accuracy/other", "nan", 25),
    ]  # fmt: skip
    assert told[-1] == "closed"


def test_tensorboard_without_its_package_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="^--tensorboard needs the package tensorboardX: pip install tensorboardX$"):
        watch(tmp_path, 0, measured([3.0]), board=tmp_path / "board")
    assert capsys.readouterr().err == ""
    assert not [*tmp_path.iterdir()]


# Runs that need not, or cannot, go on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "step", "patience", "expected"),
    [
        ([[3.0, 2.0, 2.0, 2.5]], 100, 2, True),
        ([[3.0, 2.0, 2.0, 2.5]], 100, 3, False),  # the second is below the first
        ([[3.0, 2.0, 2.0, 2.5]], 100, None, False),
        ([[3.0, 2.0, 2.0, 2.5]], 75, 1, True),
        ([[3.0, 2.0, 2.0, 2.5]], 74, 1, False),  # as the third has not been made
        ([[3.0, 2.0, 2.0, 2.5]], 100, 4, False),  # as there is none before
        ([[3.0, 3.5, 3.4, 3.3]], 100, 2, True),  # falls, but not below what it was
        ([[3.0, 4.0, 4.0, 4.0], [3.0, 4.0, 4.0, 2.0]], 100, 3, False),  # one of them is enough
        ([[3.0, math.nan, math.nan, math.nan]], 100, 1, True),
        ([[math.nan, math.nan, math.inf, math.nan]], 100, 1, True),
        ([[3.0, math.nan, math.nan, math.nan], [3.0, 2.0, 1.0, 0.5]], 100, 1, False),
        ([[]], 0, 1, False),
    ],
)
def test_a_run_has_stalled_when_no_validation_loss_falls(losses, step, patience, expected):
    assert stalled(measured(*losses, arms=len(losses)), step, patience) is expected


def test_a_run_that_stalled_ends_and_does_not_go_on(cache, tmp_path):
    folder = tmp_path / "run"
    still = words(folder, "--early-stopping", "1", "--learning-rate", "1e-30")
    status, said = Fork(still, cache).wait()
    assert status == 0
    assert "100 of 200 updates" in said
    held, history = logged(folder), Results.load(folder / "history.npz")
    assert history.done == held[-1]["step"] == 100
    again = Fork(still, cache).finish()
    assert again.resumed_from == 100
    assert logged(folder) == held
    same(folder, history)


def test_an_arm_that_diverges_is_marked_and_touches_no_other(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.studies.published.PUBLISHED", engine.QUICKLY_TOLD)
    arms = {arm.name: arm for arm in published(1e-2, 40)}
    lost = Arm("step-25", decayed_adam, {"learning_rate": 1e30, "b1": 0.9}, 40)
    found = {}
    for name, first in {"with": lost, "without": arms["step-25"]}.items():
        those = engine.plan([first, arms["step-75"]], seeds=(0, 1), steps=40)
        with kept_in(cache):
            found[name] = run(those, tmp_path / name, program=Program(those, jax.devices()[:1]))
    assert found["with"].done == found["without"].done == 40
    assert found["with"].diverged("step-25") == 2
    assert np.isnan(found["with"].history.valid_loss[0, :, -1]).all()
    for measured_with, measured_without in zip(
        *(jax.tree.leaves(each.history) for each in found.values()), strict=True
    ):
        if measured_with.ndim == 3:
            np.testing.assert_array_equal(measured_with[1:], measured_without[1:])
    assert "DIVERGED: step-25 (2 of 2 seeds)." in save(found["with"], tmp_path)
    (finding,) = judge(CLAIMS, found["with"].train_loss)
    assert (finding.statement, finding.verdict) == ("A step at 75 % ends below a step at 25 %", "undecided")
