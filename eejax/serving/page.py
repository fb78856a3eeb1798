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
"""The page on which one types a prompt and sees tokens arrive by depth.

It is one HTML file without anything to be fetched; its script calls the
server's own routes, as any client would, and it holds nothing of the models.
"""

import base64
import hashlib
import re

from eejax.report import page as report

_STYLE = """
[hidden]{display:none!important}
form{display:grid;gap:.8rem;margin:1rem 0}
label,legend{font-weight:600;font-size:.92rem}
textarea,input,select,button{font:inherit;color:inherit;border-radius:8px;
border:1px solid var(--soft);background:var(--ground);padding:.5rem .6rem}
textarea{width:100%;min-height:7rem;resize:vertical;
font:14px/1.5 ui-monospace,Menlo,Consolas,monospace}
input[type=range]{padding:0;width:100%;min-height:2.2rem;accent-color:var(--s0)}
button{min-height:2.75rem;min-width:6.5rem;font-weight:600;cursor:pointer}
button.go{background:var(--s0);border-color:var(--s0);color:var(--ground)}
button:disabled{opacity:.55;cursor:default}
:focus-visible{outline:3px solid var(--s1);outline-offset:2px}
fieldset{border:1px solid var(--line);border-radius:10px;padding:.6rem 1rem;
margin:0;min-width:0}
.fields{display:grid;gap:.8rem;align-items:end;
grid-template-columns:repeat(auto-fit,minmax(min(100%,9rem),1fr))}
.field{display:grid;gap:.2rem;min-width:0}
.field>*{min-width:0;width:100%}
.field>input,.field>select{min-height:2.75rem}
.actions{display:flex;gap:.6rem;flex-wrap:wrap}
.slider{display:grid;grid-template-columns:6.5rem 1fr 3.6rem;gap:.6rem;
align-items:center}
.slider output{text-align:right;font-variant-numeric:tabular-nums}
#figures{grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
#text{min-height:8rem}
#problem{color:var(--s1);font-weight:600}
#problem:empty{display:none}
.out{position:absolute;width:1px;height:1px;overflow:hidden;
clip-path:inset(50%);white-space:nowrap}
"""

_CONTENT = """
<main>
<h1>eejax</h1>
<p class="soft">Type a prompt and see which depth each token comes from.</p>
<form id="form">
<div class="field"><label for="prompt">Prompt</label>
<textarea id="prompt" required spellcheck="false" autocomplete="off"
aria-describedby="hint">import os</textarea>
<span id="hint" class="soft">Ctrl+Enter generates, Escape stops.</span></div>
<div class="fields">
<div class="field"><label for="model">Model</label>
<select id="model"></select></div>
<div class="field"><label for="mode">Mode</label>
<select id="mode"><option value="full">full depth</option>
<option value="early_exit">early exit</option>
<option value="speculative">speculative</option></select></div>
<div class="field" id="kinds" hidden><label for="kind">Prompt is</label>
<select id="kind"><option value="message">chat message</option>
<option value="text">text to continue</option></select></div>
<div class="field"><label for="tokens">New tokens</label>
<input id="tokens" type="number" min="1" max="4096" value="64" required></div>
<div class="field"><label for="temperature">Temperature</label>
<input id="temperature" type="number" min="0" max="5" step="0.1" value="0"
required></div>
<div class="field"><label for="key">API key (if any)</label>
<input id="key" type="password" autocomplete="off"></div>
</div>
<fieldset id="exits" hidden><legend>Thresholds</legend>
<span class="soft">An exit's token is taken where its score reaches them.
<span id="certified" hidden>They are certified; moved ones are not.</span>
</span>
<div id="sliders"></div></fieldset>
<div class="actions"><button class="go" id="go">Generate</button>
<button type="button" id="stop" disabled>Stop</button></div>
</form>
<p id="problem" role="alert"></p>
<section aria-label="Generated text">
<div id="legend"></div>
<pre id="text" tabindex="0" aria-label="Text, coloured by depth"></pre>
<div class="cards" id="figures">
<div class="card"><b id="speed">&ndash;</b><span>tokens/s</span></div>
<div class="card"><b id="first">&ndash;</b><span>s to the first token</span>
</div>
<div class="card"><b id="blocks">&ndash;</b><span>of the block-passes of full
depth</span></div>
<div class="card"><b id="depth">&ndash;</b><span>mean depth</span></div>
</div>
</section>
<p id="status" class="out" role="status" aria-live="polite"></p>
</main>
"""

_SCRIPT = """
'use strict';
const $ = id => document.getElementById(id);
const FIRST_HUE = %(first)d, LAST_HUE = %(last)d;
let models = {}, running = null, moved = false;

function headers() {
  const key = $('key').value.trim();
  return {'Content-Type': 'application/json',
    ...(key ? {Authorization: 'Bearer ' + key} : {})};
}
async function refusal(response) {
  try { return (await response.json()).error.message; }
  catch { return 'The server answered ' + response.status + '.'; }
}
function colour(element, depth, levels) {
  element.classList.add('token');
  if (depth === levels[levels.length - 1]) {
    element.classList.add('full');
    return;
  }
  const place = levels.indexOf(depth) / Math.max(levels.length - 2, 1);
  const hue = (FIRST_HUE + (LAST_HUE - FIRST_HUE) * place + 360) %% 360;
  element.style.setProperty('--hue', Math.round(hue));
}
function levels() { return models[$('model').value]?.levels ?? []; }

async function readModels() {
  const response = await fetch('v1/models', {headers: headers()});
  if (!response.ok) throw new Error(await refusal(response));
  const found = (await response.json()).data;
  models = Object.fromEntries(found.map(m => [m.id, m.eejax]));
  const before = $('model').value;
  $('model').replaceChildren(...found.map(m => new Option(m.id, m.id)));
  if (models[before]) $('model').value = before;
  showModel();
}
function showModel() {
  const own = models[$('model').value];
  if (!own) return;
  $('mode').value = own.policy.mode;
  for (const option of $('mode').options) {
    // Speculation needs no exits: the text so far drafts.
    option.disabled = own.levels.length < 2 && option.value === 'early_exit';
  }
  $('kinds').hidden = !own.has_chat_template;
  $('kind').value = own.has_chat_template ? 'message' : 'text';
  $('certified').hidden = !own.policy.certificate;
  moved = false;
  const depths = own.levels;
  $('legend').replaceChildren(...depths.map(depth => {
    const key = document.createElement('span');
    key.className = 'key';
    colour(key, depth, depths);
    key.textContent = 'depth ' + depth
      + (depth === depths[depths.length - 1] ? ' (full)' : '');
    return key;
  }));
  const given = own.policy.thresholds;
  $('sliders').replaceChildren(...depths.slice(0, -1).map((depth, i) =>
    slider(depth, own.policy.mode === 'full' ? 0.9
      : given.length === 1 ? given[0] : given[i])));
  showMode();
}
function slider(depth, value) {
  const row = document.createElement('div');
  row.className = 'slider';
  const label = document.createElement('label');
  label.htmlFor = 'threshold-' + depth;
  label.textContent = 'exit at ' + depth;
  const input = document.createElement('input');
  Object.assign(input,
    {type: 'range', id: label.htmlFor, min: 1, max: 101,
      value: value === 'never' ? 101 : Math.max(1, Math.round(100 * value))});
  input.dataset.depth = depth;
  const output = document.createElement('output');
  output.htmlFor = label.htmlFor;
  const show = () => {
    const value = threshold(input);
    output.textContent = value === 'never' ? value : value.toFixed(2);
    input.setAttribute('aria-valuetext', output.textContent);
  };
  input.addEventListener('input', () => { moved = true; show(); });
  show();
  row.append(label, input, output);
  return row;
}
function threshold(input) {
  return Number(input.value) > 100 ? 'never' : Number(input.value) / 100;
}
function showMode() {
  $('exits').hidden = $('mode').value === 'full' || levels().length < 2;
}

function exits() {
  const own = models[$('model').value].policy, mode = $('mode').value;
  // What nobody moved is the server's own, to the last digit.
  if (mode === own.mode && !moved) return {};
  if (mode === 'full') return {mode};
  const thresholds = [...document.querySelectorAll('#sliders input')]
    .map(threshold);
  // No certificate covers other thresholds, so it goes on without one.
  if (mode === own.mode) {
    return {policy: {...own, certificate: null, thresholds}};
  }
  return thresholds.length ? {mode, threshold: thresholds} : {mode};
}
function isChat() { return $('kind').value === 'message'; }
function body() {
  const words = $('prompt').value;
  return {model: $('model').value, stream: true,
    ...(isChat() ? {messages: [{role: 'user', content: words}]}
      : {prompt: words}),
    max_tokens: Number($('tokens').value),
    temperature: Number($('temperature').value), eejax: exits()};
}
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream())
    .getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\\n\\n');
    rest = parts.pop();
    const found = parts.map(part => part.replace(/^data: /, ''))
      .filter(data => data !== '[DONE]');
    yield found.map(data => JSON.parse(data));
  }
}
function append(details, depths) {
  details.pieces.forEach((piece, i) => {
    const token = document.createElement('span');
    const depth = details.exit_depths[i], score = details.scores[i];
    colour(token, depth, depths);
    token.dataset.hint = 'depth ' + depth
      + (score === null ? '' : ', score ' + score.toFixed(3));
    token.textContent = piece.replaceAll('\\n', '\\u21b5\\n');
    $('text').append(token);
  });
}
function figures(state) {
  const {tokens, began, first, latest, firstCount, depths, work} = state;
  const after = tokens - firstCount;
  const number = (value, digits) =>
    Number.isFinite(value) ? value.toFixed(digits) : '\\u2013';
  $('speed').textContent =
    after > 0 ? number(1000 * after / (latest - first), 1) : '\\u2013';
  $('first').textContent = number((first - began) / 1000, 2);
  $('depth').textContent = number(depths / tokens, 1);
  $('blocks').textContent = work
    ? Math.round(100 * work.blocks_run / work.blocks_full) + '%%' : '\\u2013';
}
function take(details, state) {
  state.tokens += details.tokens.length;
  state.depths += details.exit_depths.reduce((a, b) => a + b, 0);
  state.work = details.accounting ?? state.work;
  append(details, levels());
}
async function generate() {
  running = new AbortController();
  $('problem').textContent = '';
  $('go').disabled = true;
  $('stop').disabled = false;
  $('status').textContent = 'Generating.';
  const prompt = document.createElement('span');
  prompt.className = 'prompt';
  prompt.textContent = $('prompt').value + (isChat() ? '\\n\\n' : '');
  $('text').replaceChildren(prompt);
  const depths = levels();
  const state = {tokens: 0, firstCount: 0, depths: 0, work: null,
    began: performance.now(), first: NaN, latest: NaN};
  try {
    if (!depths.length) await readModels();
    const route = isChat() ? 'v1/chat/completions' : 'v1/completions';
    const response = await fetch(route, {method: 'POST',
      headers: headers(), body: JSON.stringify(body()),
      signal: running.signal});
    if (!response.ok) throw new Error(await refusal(response));
    for await (const chunks of events(response)) {
      state.latest = performance.now();
      for (const chunk of chunks) {
        if (chunk.error) throw new Error(chunk.error.message);
        for (const choice of chunk.choices) take(choice.eejax, state);
      }
      // Those that come together first tell nothing of the speed.
      if (!state.firstCount && state.tokens) {
        state.first = state.latest;
        state.firstCount = state.tokens;
      }
      figures(state);
    }
    $('status').textContent = state.tokens + ' tokens, '
      + $('speed').textContent + ' tokens per second: '
      + $('text').textContent;
  } catch (error) {
    const stopped = error.name === 'AbortError';
    $('status').textContent = stopped ? 'Stopped.' : '';
    if (!stopped) $('problem').textContent = error.message;
  } finally {
    running = null;
    $('go').disabled = false;
    $('stop').disabled = true;
  }
}
$('form').addEventListener('submit', event => {
  event.preventDefault();
  if (!running) generate();
});
$('stop').addEventListener('click', () => running?.abort());
$('model').addEventListener('change', showModel);
$('mode').addEventListener('change', showMode);
$('key').addEventListener('change', () => readModels().catch(tell));
document.addEventListener('keydown', event => {
  if (event.key === 'Escape') running?.abort();
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    $('form').requestSubmit();
  }
});
function tell(error) { $('problem').textContent = error.message; }
readModels().catch(tell);
"""


def _whole() -> str:
  script = _SCRIPT % {'first': report.FIRST_HUE, 'last': report.LAST_HUE}
  return report.page(
    'eejax',
    f'{_CONTENT}<script>{script}</script>',
    head=f'<style>{_STYLE}</style>',
  )


def _hashes(html: str, tag: str) -> str:
  """Return what a content policy says of every element of a kind."""
  found = re.findall(f'<{tag}>(.*?)</{tag}>', html, flags=re.DOTALL)
  digests = (hashlib.sha256(block.encode('utf-8')).digest() for block in found)
  return ' '.join(
    f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests
  )


HTML = _whole()

# Nothing runs but the page's own script, and it talks to this server alone.
CONTENT_POLICY = (
  "default-src 'none'; connect-src 'self'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'; "
  f'script-src {_hashes(HTML, "script")}; style-src {_hashes(HTML, "style")}'
)
