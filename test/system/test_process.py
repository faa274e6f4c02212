"""Signals of the executables, without ROS: at any moment, twice, and while nothing reacts."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lvad_perception.node import process

# A program as the executables are: its main thread does nothing but wait for the event.
START = """
import os, random, signal, sys, threading, time
from lvad_perception.node.process import run_until_signal

def interrupt(*, times=2, gap_s=0.0):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(gap_s)
"""

# Two signals from another thread, at random moments: before, while and after the main thread takes the event's lock.
AT_RANDOM = """
moments = random.Random(0)
sys.setswitchinterval(1e-5)

def run(stop):
    wait_s, gap_s = moments.uniform(0, 2e-4), moments.choice([0.0, 1e-6, 1e-5, 1e-4])
    sending = threading.Thread(target=lambda: (time.sleep(wait_s), interrupt(gap_s=gap_s)))
    sending.start()
    while not stop.wait(0):  # most of the time it holds the event's lock
        pass
    sending.join()
    return 7

for _ in range(1000):
    assert run_until_signal("test", run, status_at_once=9) == 7
print("ended 1000 times")
"""

# Two signals after each instruction that the main thread runs in threading.Event.wait and is_set, one round for each.
AT_EACH_INSTRUCTION = """
def instructions(at):
    '''Run the program once, with the signals at one instruction; returns how many there were.'''
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename != threading.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == at:
                interrupt()
        return trace

    def run(stop):
        sys.settrace(trace)
        stop.is_set(), stop.wait(1e-6)
        sys.settrace(None)
        interrupt()  # for the round in which there was no such instruction
        stop.wait()
        return 7

    assert run_until_signal("test", run, status_at_once=9) == 7
    return count

there_are = instructions(0)
if not there_are:
    print("no instruction was traced")
    sys.exit()
for turn in range(1000):
    instructions(1 + turn % there_are)
print("ended 1000 times at", there_are, "instructions")
"""

# It was told to end and does not: it hangs in a library, which keeps Python's lock only now and then.
DEAF = """
def run(stop):
    print("ready", flush=True)
    while True:
        time.sleep(0.01)

sys.exit(run_until_signal("test", run, status_at_once=9))
"""


def run(code):
    started = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert started.returncode == 0, started.stderr
    assert started.stderr == ""
    return started.stdout


def test_two_signals_at_a_thousand_random_moments_end_it_each_time():
    assert run(AT_RANDOM) == "ended 1000 times\n"


def test_two_signals_at_each_instruction_of_the_wait_end_it_each_time():
    printed = run(AT_EACH_INSTRUCTION)
    if printed == "no instruction was traced\n":
        pytest.skip("this Python, as 3.12.1, does not trace single instructions")
    said, _, instructions = printed.removesuffix(" instructions\n").rpartition(" ")
    assert said == "ended 1000 times at"
    assert 30 < int(instructions) < 1000


class TestDeaf:
    """A program that does not react to the first signal."""

    @pytest.fixture
    def deaf(self):
        started = subprocess.Popen([sys.executable, "-c", START + DEAF], stdout=subprocess.PIPE, text=True)
        assert started.stdout.readline() == "ready\n"
        yield started
        started.kill()
        started.communicate()

    def test_a_second_ctrl_c_ends_it_at_once(self, deaf):
        deaf.send_signal(process.signal.SIGINT)
        time.sleep(process._SECOND_AFTER_S + 0.2)
        deaf.send_signal(process.signal.SIGINT)
        assert deaf.wait(timeout=10) == 9

    def test_what_launch_passes_on_of_one_ctrl_c_is_no_second(self, deaf):
        for number in (process.signal.SIGINT, process.signal.SIGINT, process.signal.SIGTERM):
            deaf.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            deaf.wait(timeout=process._SECOND_AFTER_S + 0.5)

    def test_what_launch_sends_to_a_slow_one_is_no_second(self, deaf):
        deaf.send_signal(process.signal.SIGINT)
        time.sleep(process._SECOND_AFTER_S + 0.2)
        deaf.send_signal(process.signal.SIGTERM)  # five seconds later, in fact
        with pytest.raises(subprocess.TimeoutExpired):
            deaf.wait(timeout=0.5)


@pytest.fixture
def own_handlers():
    """The handlers as they were, after the test."""
    before = [process.signal.getsignal(number) for number in process._SIGNALS]
    yield
    for number, handler in zip(process._SIGNALS, before, strict=True):
        process.signal.signal(number, handler)


def test_nothing_of_it_stays_but_that_signals_are_ignored(own_handlers):
    files = len([*Path("/proc/self/fd").iterdir()])
    threads = threading.active_count()
    for number in process._SIGNALS:
        assert process.run_until_signal("test", lambda stop, n=number: _kill(n, stop), status_at_once=9) == 7
        assert process.signal.getsignal(number) is process.signal.SIG_IGN
    assert process.signal.set_wakeup_fd(-1) == -1
    assert len([*Path("/proc/self/fd").iterdir()]) == files
    assert threading.active_count() == threads


def _kill(number, stop):
    os.kill(os.getpid(), number)
    assert stop.wait(10)
    return 7
