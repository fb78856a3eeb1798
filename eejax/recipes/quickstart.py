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
"""The whole path on one small model, stage by stage, and one page of it.

    load -> probe -> add exits -> tune -> calibrate -> verdict -> generate

Each stage is a recipe of its own. What it found is kept in the folder, so a
quickstart that was stopped goes on from there.
"""

import dataclasses
import datetime
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from eejax import config as config_lib
from eejax import environment, serialization, storage
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import packaged
from eejax.checkpoint.load import load
from eejax.checkpoint.model import Model
from eejax.checkpoint.packaged import DEFAULT
from eejax.checkpoint.tree import backbone_hash
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.data.corpus import Split
from eejax.decoding.policy.criteria import default_criterion
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.progress import SILENT, Progress
from eejax.recipes import stages as stages_lib
from eejax.recipes.add_exits import add_exits
from eejax.recipes.calibrate import run_calibration
from eejax.recipes.calibration.request import CalibrationRequest
from eejax.recipes.evaluate import evaluate
from eejax.recipes.generate import generate
from eejax.recipes.probe import probe
from eejax.recipes.result import Result
from eejax.recipes.save import save
from eejax.recipes.text import Text
from eejax.recipes.tune import tune
from eejax.report import page
from eejax.version import __version__

# Shares of the depth at which exits stand where nothing is said.
PLACES = (1 / 4, 3 / 8, 1 / 2, 3 / 4)
# Of texts that thresholds are certified on.
PROMPT_TOKENS, SEQUENCES, SEARCH_SEQUENCES = 32, 320, 64
SAMPLES, SAMPLE_THRESHOLD = 3, 0.5

BACKBONE, WITH_EXITS, TUNING = 'backbone', 'with_exits', 'tuning'
TUNED, POLICY = f'{TUNING}/model', 'policy.json'

# What is being done, and about how many seconds it takes on two cores.
TITLES = {
  'import': ('importing the backbone', 3),
  'probe': ('probing its natural exits', 45),
  'exits': ('adding exits', 3),
  'tune': ('tuning the exits', 90),
  'evaluate': ('evaluating every exit', 15),
  'calibrate': ('calibrating thresholds', 90),
  'verdict': ('measuring every way to decode', 60),
  'samples': ('writing samples', 15),
}
_HEADINGS = {
  'verdict': 'Does it pay?',
  'probe': 'Before: natural exits',
  'tune': 'Tuning',
  'evaluate': 'Every exit on text it never saw',
  'calibrate': 'Calibration',
  'samples': 'Texts',
}


@dataclasses.dataclass(frozen=True)
class QuickstartSettings:
  """Settings of a quickstart.

  Attributes:
    backbone: what `eejax.load` takes.
    text: what is probed, tuned, calibrated and measured on; its train part is
      tuned on, validation part searched and certified on, test part reported.
    exits: as `eejax.add_exits` takes them; None places four MLP exits with
      gates.
    risk: share of tokens that may differ, in (0, 1).
    steps: optimizer steps of tuning.
    max_tokens: of held-out text that each measurement reads.
    prompts: that are timed.
    new_tokens: generated after each.
    repeats: rounds of timing.
    window: tokens that wait for deeper blocks, at most.
    seed: of everything random.
  """

  backbone: str = DEFAULT
  text: Text = Text()
  exits: str | None = None
  risk: float = 0.03
  steps: int = 250
  max_tokens: int = 16_000
  prompts: int = 16
  new_tokens: int = 48
  repeats: int = 3
  window: int = 8
  seed: int = 0

  def __post_init__(self):
    if not 0 < self.risk < 1:
      raise ArgumentError(f'risk must lie in (0, 1), not {self.risk}.')
    if self.exits:
      config_lib.parse_exits(self.exits)
    counts = ('steps', 'max_tokens', 'prompts', 'new_tokens', 'repeats')
    for name in (*counts, 'window'):
      if getattr(self, name) < 1:
        raise ArgumentError(
          f'{name} must be at least 1, not {getattr(self, name)}.'
        )


@dataclasses.dataclass(frozen=True)
class QuickstartResult(Result):
  """What a quickstart made and measured.

  Attributes:
    folder: where everything is.
    stages: of each stage, by name: `summary` (text), `content` (HTML) and
      `values` (plain values).
    seconds: what each stage took.
    about: the backbone, its exits, the machine.
  """

  folder: pathlib.Path
  stages: dict[str, dict[str, Any]]
  seconds: dict[str, float]
  about: dict[str, Any]

  title = 'eejax quickstart'

  def summary(self) -> str:
    """Return the verdict, and what was certified."""
    unchanged = (
      'Not a byte of the backbone was changed by tuning.'
      if self.about['backbone_unchanged']
      else 'The backbone was changed by tuning: this is a defect.'
    )
    parts = (self.stages['verdict'], self.stages['calibrate'])
    return '\n'.join([*(part['summary'] for part in parts), unchanged])

  def table(self) -> list[dict[str, Any]]:
    """Return the ways to decode that were measured."""
    return self.stages['verdict']['rows']

  def page(self) -> str:
    """Return one page: the verdict first, then what it rests on."""
    sections = [
      page.section(heading, self.stages[name]['content'])
      for name, heading in _HEADINGS.items()
    ]
    facts = {
      **self.about,
      **{
        f'seconds: {TITLES[n][0]}': round(s, 1) for n, s in self.seconds.items()
      },
    }
    return page.page(
      self.title,
      '\n'.join(
        [
          f'<h1>{page.text(self.title)}</h1>',
          *sections,
          page.section('How it was made', page.facts(facts)),
        ]
      ),
    )


def quickstart(
  settings: QuickstartSettings = QuickstartSettings(),
  *,
  folder: str | pathlib.Path = 'runs/quickstart',
  force: bool = False,
  progress: Progress = SILENT,
) -> QuickstartResult:
  """Run the whole path; what is finished in the folder is not done again.

  Args:
    settings: of the run.
    folder: where everything goes: models, policy, `summary.json`,
      `report.html`.
    force: do everything again, also what is finished.
    progress: is told which stage begins, and how far it is.

  Raises:
    EejaxError: a stage cannot be done; those before it are kept.
  """
  with stages_lib.claimed(folder) as place:
    if force:
      stages_lib.forget(place)
    run = _Quickstart(settings, place, progress)
    result = run.all()
    result.save(place / 'summary.json')
    result.save(place / 'report.html')
  return result


class _Quickstart:
  """The stages of a quickstart, in order."""

  def __init__(
    self,
    settings: QuickstartSettings,
    folder: pathlib.Path,
    progress: Progress,
  ):
    self._settings, self._folder, self._progress = settings, folder, progress
    self._runner = stages_lib.Stages(folder, titles=TITLES, progress=progress)
    self._results: dict[str, dict[str, Any]] = {}

  def all(self) -> QuickstartResult:
    """Run what is not done."""
    s, run = self._settings, self._run
    run('import', self._import, [__version__, *_source(s)], [BACKBONE])
    plain = checkpoint_folder.read_config(self._folder / BACKBONE).model
    exits = s.exits or default_exits(plain)
    # Refuses exits beyond the model before anything long is done.
    EarlyExitConfig(plain, config_lib.parse_exits(exits))
    text = [s.text.fingerprint(), s.max_tokens, s.window, s.risk]
    sizes = [s.prompts, s.new_tokens, s.repeats]
    run('probe', lambda: self._probe(BACKBONE), [text, sizes])
    run('exits', lambda: self._add(exits), [exits, s.seed], [WITH_EXITS])
    run('tune', self._tune, [s.steps, s.seed], [TUNED])
    run('evaluate', self._evaluate)
    run('calibrate', self._calibrate)
    run('verdict', lambda: self._probe(TUNED))
    run('samples', self._samples)
    return QuickstartResult(
      self._folder, self._results, self._runner.seconds, self._about(exits)
    )

  def _run(
    self,
    name: str,
    work: Callable[[], Result | None],
    inputs: Any = None,
    products: Sequence[str] = (),
  ) -> None:
    """Run a stage, and keep what its result shows and says."""

    def described() -> dict[str, Any]:
      result = work()
      if result is None:
        return {}
      return {
        'summary': result.summary(),
        'rows': result.table(),
        'content': result.content(),
        'values': result.to_json(),
      }

    self._results[name] = self._runner.run(
      name, described, inputs=inputs, products=products
    )

  @functools.cached_property
  def _tuned(self) -> Model:
    return load(self._folder / TUNED, dtype='float32')

  def _import(self) -> None:
    model = load(self._settings.backbone, progress=self._progress)
    if model.config.exits:
      raise ArgumentError(
        f'{self._settings.backbone} has exits already, and a quickstart adds '
        'its own; take the backbone it was made from.'
      )
    save(model, self._folder / BACKBONE, overwrite=True)

  def _probe(self, name: str) -> Result:
    s, is_tuned = self._settings, name == TUNED
    return probe(
      self._tuned if is_tuned else load(self._folder / name, dtype='float32'),
      # What the policy was chosen on is the validation part.
      s.text.of_split(Split.TEST if is_tuned else Split.VALIDATION),
      loss=s.risk,
      window=s.window,
      max_tokens=s.max_tokens,
      # Before there are exits a forecast will do.
      num_prompts=s.prompts if is_tuned else 0,
      new_tokens=s.new_tokens,
      repeats=s.repeats,
      policy=self._policy() if is_tuned else None,
      progress=self._progress,
    )

  def _add(self, exits: str) -> None:
    model = load(self._folder / BACKBONE)
    model = add_exits(model, exits, seed=self._settings.seed)
    save(model, self._folder / WITH_EXITS, overwrite=True)

  def _tune(self) -> Result:
    s = self._settings
    return tune(
      self._folder / WITH_EXITS,
      s.text,
      folder=self._folder / TUNING,
      steps=s.steps,
      seed=s.seed,
      progress=self._progress,
    )

  def _evaluate(self) -> Result:
    s = self._settings
    return evaluate(
      self._tuned,
      s.text.of_split(Split.TEST),
      max_tokens=s.max_tokens,
      window=s.window,
      progress=self._progress,
    )

  def _calibrate(self) -> Result:
    s, policy = self._settings, self._folder / POLICY
    policy.unlink(missing_ok=True)
    tokens = min(PROMPT_TOKENS, self._tuned.config.model.max_length // 3)
    result = run_calibration(
      self._tuned,
      s.text.of_split(Split.VALIDATION),
      CalibrationRequest(
        risk=s.risk,
        sequences=SEQUENCES,
        search_sequences=SEARCH_SEQUENCES,
        prompt_tokens=tokens,
        max_new_tokens=s.new_tokens,
        window=s.window,
        seed=s.seed,
      ),
      folder=self._folder,
      progress=self._progress,
    )
    if result.certified is not None and not result.is_slower:
      result.certified.save(policy)
    return result

  def _policy(self) -> Policy | None:
    path = self._folder / POLICY
    return Policy.load(path) if path.is_file() else None

  def _samples(self) -> Result:
    s, policy = self._settings, self._policy()
    lossy = Policy(
      Mode.EARLY_EXIT,
      default_criterion(self._tuned.config),
      (SAMPLE_THRESHOLD,),
      window=s.window,
    )
    tokens = min(PROMPT_TOKENS, self._tuned.config.model.max_length // 3)
    prompts = s.text.of_split(Split.TEST).pieces(
      self._tuned, length=tokens, max_tokens=SAMPLES * tokens
    )
    return generate(
      self._tuned,
      prompts[:SAMPLES],
      policy=policy or lossy,
      max_new_tokens=tokens,
      progress=self._progress,
    )

  def _about(self, exits: str) -> dict[str, Any]:
    """Return what the results depend on besides the settings."""
    before = checkpoint_folder.read_manifest(self._folder / BACKBONE)
    tuned = load(self._folder / TUNED)
    note = packaged.note_of(self._settings.backbone)
    return serialization.plain(
      {
        **dataclasses.asdict(self._settings),
        **({'note': note} if note else {}),
        'text': str(self._settings.text),
        'exits': exits,
        'layers': before.config.model.num_layers,
        'backbone_unchanged': (
          before.backbone_hash == backbone_hash(tuned.params)
        ),
        'made': datetime.datetime.now().isoformat(' ', 'seconds'),
        **environment.describe(),
      }
    )


def _source(settings: QuickstartSettings) -> list[Any]:
  """Return what tells whether the backbone's files have changed."""
  path = storage.local_path(settings.backbone)
  files = stages_lib.fingerprint(path) if path.exists() else []
  return [settings.backbone, files]


def default_exits(config: ModelConfig) -> str:
  """Return the exits that a quickstart adds, as `add_exits` takes them.

  Raises:
    ArgumentError: the model has no depth between its ends.
  """
  last = config.num_layers - 1
  if last < 1:
    raise ArgumentError(
      'a model of one block has no depth to exit at; take a deeper one.'
    )
  depths = {min(max(int(p * config.num_layers + 0.5), 1), last) for p in PLACES}
  return ','.join(f'{depth}:mlp:mlp_gate' for depth in sorted(depths))
