"""A learner's link, as the launcher strikes it: a relay that is killed, stopped, started again."""

import os
import signal
import socket
import threading

import pytest

from support.links import heard, over, relayed, start_relay

pytestmark = pytest.mark.processes


def test_bytes_pass_unchanged_and_at_a_pace_however_slowly_one_side_reads(tmp_path):
    sent = os.urandom(32 << 20)
    with relayed(tmp_path) as (_, connect, _port):
        sock = connect()
        sender = threading.Thread(target=sock.sendall, args=(sent,))
        sender.start()
        assert heard(sock, len(sent)) == sent
        sender.join()


def test_the_end_of_one_side_is_the_others_after_what_was_said(tmp_path):
    with relayed(tmp_path) as (_, connect, _port):
        sock = connect()
        sock.sendall(b"the last words")
        sock.shutdown(socket.SHUT_WR)
        assert heard(sock, 14) == b"the last words" and over(sock)


def test_where_there_is_no_syncer_a_connection_ends_at_once(tmp_path):
    with relayed(tmp_path) as (_, connect, port):
        connect()
        (tmp_path / "address").write_text("127.0.0.1:1\n")
        assert over(socket.create_connection(("127.0.0.1", port)))
        (tmp_path / "address").unlink()
        assert over(socket.create_connection(("127.0.0.1", port)))


def test_a_killed_relays_port_is_refused_and_its_successors_again(tmp_path):
    with relayed(tmp_path) as (relay, connect, port):
        sock = connect()
        relay.send_signal(signal.SIGKILL)
        assert relay.wait() == -signal.SIGKILL and over(sock)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        again = start_relay(port, tmp_path / "address")
        try:
            connect()
        finally:
            again.kill()
            again.wait()
