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
"""Drive the server's page in a real browser, by keyboard and on a phone.

EEJAX_PICTURES=FOLDER keeps pictures of what the browser showed.
"""

import base64
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

import eejax

PATHS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
CHROMIUM = next(filter(None, map(shutil.which, PATHS)), None)
WIDTHS = {'desktop': (1200, 900), 'phone': (390, 844)}
PROMPT = 'alpha beta'
KEYS = {
  'Tab': {'code': 'Tab', 'windowsVirtualKeyCode': 9},
  'Escape': {'code': 'Escape', 'windowsVirtualKeyCode': 27},
  'Enter': {'code': 'Enter', 'windowsVirtualKeyCode': 13, 'text': '\r'},
  'ArrowDown': {'code': 'ArrowDown', 'windowsVirtualKeyCode': 40},
  'ArrowLeft': {'code': 'ArrowLeft', 'windowsVirtualKeyCode': 37},
  'Home': {'code': 'Home', 'windowsVirtualKeyCode': 36},
  'End': {'code': 'End', 'windowsVirtualKeyCode': 35},
}
CONTROL = 2

pytestmark = [
  pytest.mark.browser,
  pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium on PATH'),
]


class Browser:
  """One page of Chromium, asked over its debugging pipe."""

  def __init__(self, folder: pathlib.Path):
    # The child's ends become its file descriptors 3 and 4.
    ends = [end for _ in range(2) for end in os.pipe()]
    read, self._to, self._from, write = (
      fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends
    )
    for end in ends:
      os.close(end)
    self._process = subprocess.Popen(
      ['bash', '-c', f'exec "$@" 3<&{read} 4>&{write}', 'bash', CHROMIUM]
      + ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run']
      + ['--disable-dev-shm-usage', f'--user-data-dir={folder}']
      + ['--remote-debugging-pipe', 'about:blank'],
      pass_fds=(read, write),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(read)
    os.close(write)
    self._rest, self._number, self._session = b'', 0, {}
    self.problems = []
    target = self.ask('Target.createTarget', url='about:blank')
    attached = self.ask(
      'Target.attachToTarget', targetId=target['targetId'], flatten=True
    )
    self._session = {'sessionId': attached['sessionId']}
    for domain in ('Page', 'Runtime', 'Log'):
      self.ask(f'{domain}.enable')

  def close(self):
    self._process.terminate()
    self._process.wait(timeout=20)
    os.close(self._to)
    os.close(self._from)

  def ask(self, method, **params):
    """Send a command; return its result."""
    self._number += 1
    command = {'id': self._number, 'method': method, 'params': params}
    content = json.dumps(command | self._session).encode() + b'\0'
    while content:
      content = content[os.write(self._to, content) :]
    while True:
      message = self._read()
      if message.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
        self.problems.append(json.dumps(message['params']))
      if message.get('id') == self._number:
        assert 'error' not in message, message
        return message['result']

  def _read(self):
    while b'\0' not in self._rest:
      part = os.read(self._from, 1 << 20)
      assert part, 'the browser has ended'
      self._rest += part
    message, _, self._rest = self._rest.partition(b'\0')
    return json.loads(message)

  def open(self, url, *, width, height, is_phone=False):
    self.ask(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=is_phone,
    )
    self.ask('Page.navigate', url=url)
    self.wait("document.readyState === 'complete' && levels().length > 0")

  def value(self, expression):
    """Return what an expression of the page is."""
    found = self.ask(
      'Runtime.evaluate', expression=expression, returnByValue=True
    )
    return found['result'].get('value')

  def wait(self, expression, seconds=20):
    end = time.monotonic() + seconds
    while not self.value(f'Boolean({expression})'):
      assert time.monotonic() < end, expression
      time.sleep(0.02)

  def press(self, key, *, modifiers=0):
    for kind in ('keyDown', 'keyUp'):
      self.ask(
        'Input.dispatchKeyEvent',
        type=kind,
        key=key,
        modifiers=modifiers,
        **KEYS[key],
      )

  def tab_to(self, name):
    """Press Tab until an element has the focus, and see that it shows it."""
    for _ in range(30):
      self.press('Tab')
      if self.value('document.activeElement.id') == name:
        style = 'getComputedStyle(document.activeElement).outlineStyle'
        assert self.value(style) == 'solid'
        return
    raise AssertionError(f'Tab never reaches {name}')

  def type(self, text):
    """Replace what a field has."""
    self.value('document.activeElement.select()')
    self.ask('Input.insertText', text=text)

  def picture(self, name):
    folder = os.environ.get('EEJAX_PICTURES')
    if folder:
      taken = self.ask('Page.captureScreenshot', captureBeyondViewport=True)
      path = pathlib.Path(folder, f'{name}.png')
      path.write_bytes(base64.b64decode(taken['data']))


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  browser = Browser(tmp_path_factory.mktemp('chromium'))
  yield browser
  browser.close()


@pytest.fixture
def browser(opened):
  opened.problems.clear()
  yield opened
  assert not opened.problems


@pytest.fixture(scope='module')
def address(model, start):
  """Return a server that asks for no key, as the page is mostly used."""
  modes = (eejax.Mode.EARLY_EXIT,)
  with start({'tiny': model}, also=modes, keys=()) as running:
    yield running.url


def shown(browser):
  """Return the text that was generated, without marks of line ends."""
  text = browser.value("$('text').textContent.replaceAll('\\u21b5', '')")
  return text.removeprefix(PROMPT)


@pytest.mark.parametrize('width', WIDTHS)
def test_the_page_is_used_by_keyboard_alone(browser, address, model, width):
  size = dict(zip(('width', 'height'), WIDTHS[width], strict=True))
  browser.open(address, **size, is_phone=width == 'phone')
  browser.tab_to('prompt')
  browser.type(PROMPT)
  browser.tab_to('mode')
  browser.press('ArrowDown')
  assert browser.value("$('mode').value") == 'early_exit'
  browser.tab_to('kind')
  browser.press('End')
  browser.tab_to('tokens')
  browser.type('12')
  browser.tab_to('threshold-1')
  browser.press('Home')
  for _ in range(3):
    browser.press('ArrowLeft')
  browser.tab_to('threshold-3')
  browser.press('End')
  browser.tab_to('go')
  browser.press('Enter')
  browser.wait("!running && $('status').textContent.startsWith('12 tokens')")
  row = eejax.generate(
    model,
    [PROMPT],
    mode='early_exit',
    thresholds='0.01,never',
    max_new_tokens=12,
  ).rows[0]
  assert shown(browser) == row.text
  depths = browser.value(
    "[...document.querySelectorAll('#text .token')]"
    ".map(t => parseInt(t.dataset.hint.replace('depth ', '')))"
  )
  assert depths == list(row.exit_depths)
  assert browser.value("$('depth').textContent") != '–'
  # Nothing is wider than the window.
  wide = 'document.documentElement.scrollWidth'
  assert browser.value(wide) <= size['width']
  browser.picture(f'page_{width}')


def test_a_message_is_answered_as_a_chat(browser, address, model):
  browser.open(address, width=1200, height=900)
  assert browser.value("$('kind').value") == 'message'
  browser.tab_to('prompt')
  browser.type(PROMPT)
  browser.tab_to('tokens')
  browser.type('20')
  browser.press('Enter', modifiers=CONTROL)
  browser.wait("!running && $('status').textContent.includes(' tokens,')")
  messages = [{'role': 'user', 'content': PROMPT}]
  row = eejax.generate(model, messages, max_new_tokens=20).rows[0]
  assert shown(browser) == f'\n\n{row.text}'


def test_a_refusal_is_told(browser, address):
  browser.open(address, width=390, height=844, is_phone=True)
  browser.tab_to('tokens')
  browser.type('4000')
  browser.press('Enter', modifiers=CONTROL)
  browser.wait("$('problem').textContent.includes('context length')")
  browser.picture('page_refusal')
  # The browser logs the answer 400 itself.
  assert all('400' in problem for problem in browser.problems)
  browser.problems.clear()
