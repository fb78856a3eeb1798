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
"""Test that gin runs read what T5X users type and complain in one sentence."""

import argparse
import re

import gin
import pytest

from eejax.cli.gin import config as gin_config
from eejax.errors import ArgumentError


@gin.configurable(module='gin_config_test', denylist=['secret'])
def bake(flour, sugar=1, secret=0):
  return flour, sugar, secret


@gin.configurable(module='gin_config_test')
def oven(heat=180):
  return heat


@gin.configurable(module='gin_config_test')
class Cake:
  def __init__(self, *, layers, oven=None):
    self.layers = layers
    self.oven = oven


@gin.configurable('twin', module='gin_config_test.left')
def left_twin(x=1):
  return x


@gin.configurable('twin', module='gin_config_test.right')
def right_twin(x=1):
  return x


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  gin.clear_config()


def parse(*argv, default_files=()):
  parser = argparse.ArgumentParser()
  gin_config.add_gin_arguments(parser)
  args = parser.parse_args(gin_config.rewrite_bindings(argv))
  gin_config.parse(args, default_files)


def complaint(*argv, **kwargs):
  with pytest.raises(ArgumentError) as caught:
    parse(*argv, **kwargs)
  text = str(caught.value)
  assert '\n' not in text
  assert text[-1] in '.?'
  assert text[-2] not in '.?'
  assert caught.value.exit_code == 2
  return text


class TestReading:
  def test_files_and_bindings_win_in_order(self, workplace):
    (workplace / 'a.gin').write_text('bake.flour = 1\nbake.sugar = 1\n')
    (workplace / 'b.gin').write_text('bake.flour = 2\nbake.sugar = 2\n')
    parse('--gin_file=a.gin', '--gin_file=b.gin', '--gin.bake.sugar=3')
    assert bake() == (2, 3, 0)

  def test_a_binding_may_hold_spaces_equals_signs_and_macros(self, workplace):
    (workplace / 'a.gin').write_text('bake.flour = %KIND\nKIND = 0\n')
    parse('--gin_file=a.gin', "--gin.KIND='a = b, c'")
    assert bake()[0] == 'a = b, c'

  def test_scoped_bindings(self):
    parse('--gin.sunday/oven.heat=200', '--gin.oven.heat=100')
    with gin.config_scope('sunday'):
      assert oven() == 200
    assert oven() == 100

  def test_default_files_are_read_only_when_none_is_given(self, workplace):
    (workplace / 'default.gin').write_text('oven.heat = 1\n')
    (workplace / 'mine.gin').write_text('bake.flour = 2\n')
    parse(default_files=['default.gin'])
    assert oven() == 1
    parse('--gin_file=mine.gin', default_files=['default.gin'])
    assert oven() == 180

  def test_a_second_parse_forgets_the_first(self):
    parse('--gin.oven.heat=1')
    parse()
    assert oven() == 180

  def test_files_are_found_in_the_search_paths_in_order(self, workplace):
    for name, heat in (('one', 1), ('two', 2)):
      (workplace / name).mkdir()
      (workplace / name / 'x.gin').write_text(f'oven.heat = {heat}\n')
    parse('--gin_file=x.gin', '--gin_search_paths=two,one')
    assert oven() == 2

  def test_files_are_found_in_the_shipped_folder(self, workplace, monkeypatch):
    (workplace / 'shipped').mkdir()
    (workplace / 'shipped' / 'x.gin').write_text('oven.heat = 7\n')
    monkeypatch.setattr(
      gin_config.resources, 'folder', lambda name: workplace / 'shipped'
    )
    parse('--gin_file=x.gin')
    assert oven() == 7

  def test_a_file_includes_its_neighbour(self, workplace):
    (workplace / 'sub').mkdir()
    (workplace / 'sub' / 'a.gin').write_text("include 'b.gin'\n")
    (workplace / 'sub' / 'b.gin').write_text('oven.heat = 5\n')
    parse('--gin_file=sub/a.gin')
    assert oven() == 5

  def test_search_paths_of_one_run_do_not_reach_the_next(self, workplace):
    (workplace / 'one').mkdir()
    (workplace / 'one' / 'x.gin').write_text('oven.heat = 1\n')
    before = list(gin.config._LOCATION_PREFIXES)
    parse('--gin_file=x.gin', '--gin_search_paths=one')
    complaint('--gin_file=x.gin')
    assert gin.config._LOCATION_PREFIXES == before


class TestComplaints:
  def test_missing_file_names_it_and_a_near_match(self, workplace):
    (workplace / 'train.gin').write_text('')
    text = complaint('--gin_file=trian.gin')
    assert "'trian.gin'" in text
    assert "did you mean 'train.gin'?" in text

  def test_missing_file_may_mean_a_shipped_one(self):
    assert "did you mean 'runs/tune.gin'?" in complaint('--gin_file=tune.gin')

  def test_missing_include_names_the_place_and_logs_nothing(
    self, workplace, caplog
  ):
    (workplace / 'a.gin').write_text("\ninclude 'gone.gin'\n")
    text = complaint('--gin_file=a.gin')
    assert text.startswith('a.gin: ')
    assert 'gone.gin' in text and 'a.gin, line 2' in text
    assert not caplog.records

  @pytest.mark.parametrize(
    'binding, named',
    [
      ('bakke.flour=1', "'bakke'"),
      ('bake.flower=1', "'flower'"),
      ('bake.flour=@ovn', "'@ovn'"),
      ('bake.flour=@ovn()', "'@ovn()'"),
    ],
  )
  def test_unknown_names_on_the_command_line(self, binding, named):
    text = complaint(f'--gin.{binding}')
    assert text.startswith(f'--gin.{binding}: ')
    assert named in text

  def test_unknown_names_in_a_file_give_the_line(self, workplace):
    (workplace / 'a.gin').write_text('\n\nbake.flower = 1\n')
    assert 'a.gin, line 3' in complaint('--gin_file=a.gin')

  def test_unknown_block_in_a_file(self, workplace):
    (workplace / 'a.gin').write_text('bakke:\n  flour = 1\n')
    assert "'bakke'" in complaint('--gin_file=a.gin')

  def test_ambiguous_name_lists_the_choices(self):
    text = complaint('--gin.twin.x=1')
    assert 'left.twin' in text
    assert 'right.twin' in text

  def test_a_parameter_gin_may_not_set(self):
    assert "'secret'" in complaint('--gin.bake.secret=1')

  def test_unquoted_text_shows_the_quotes(self):
    text = complaint('--gin.bake.flour=some/path')
    assert '--gin.bake.flour="\'some/path\'"' in text

  def test_syntax_error_in_a_file_gives_the_line(self, workplace):
    (workplace / 'a.gin').write_text('bake.sugar = 1\nbake.flour = rye\n')
    text = complaint('--gin_file=a.gin')
    assert 'a.gin, line 2, is not gin: ' in text
    assert 'quotes' in text

  def test_open_bracket(self, workplace):
    (workplace / 'a.gin').write_text('bake.flour = (1,\n')
    assert 'a.gin' in complaint('--gin_file=a.gin')
    assert '--gin.bake.flour=(1,' in complaint('--gin.bake.flour=(1,')

  def test_binding_without_a_value(self):
    assert '--gin.bake.flour' in complaint('--gin.bake.flour')

  def test_macro_without_a_value(self, workplace):
    (workplace / 'a.gin').write_text('bake.flour = %KINDS\nKIND = 1\n')
    text = complaint('--gin_file=a.gin')
    assert "'KINDS/gin.macro'" in text

  @pytest.mark.parametrize('name', ['KIND', 'bake.flour'])
  def test_required_value_not_given(self, workplace, name):
    (workplace / 'a.gin').write_text(f'{name} = %gin.REQUIRED\n')
    text = complaint('--gin_file=a.gin')
    assert text.startswith(f'{name} must be given: --gin.{name}=VALUE')
    if name == 'bake.flour':
      parse('--gin_file=a.gin', f'--gin.{name}=3')
      assert bake()[0] == 3

  def test_mistyped_macro_on_the_command_line(self, workplace):
    (workplace / 'a.gin').write_text('STEPS = 5\nbake.flour = %STEPS\n')
    text = complaint('--gin_file=a.gin', '--gin.STPES=6')
    assert '--gin.STPES' in text
    assert "did you mean 'STEPS'?" in text

  def test_macro_that_a_file_defines_but_nothing_uses_may_be_set(
    self, workplace
  ):
    (workplace / 'a.gin').write_text('STEPS = 5\n')
    parse('--gin_file=a.gin', '--gin.STEPS=6')
    assert gin.query_parameter('STEPS/gin.macro.value') == 6

  def test_missing_module(self, workplace):
    (workplace / 'a.gin').write_text('import no_such_module_here\n')
    assert "'no_such_module_here'" in complaint('--gin_file=a.gin')


class TestMissingValues:
  def test_required_argument_of_a_function(self):
    parse()
    with pytest.raises(ArgumentError, match="bake.*'flour'.*--gin"):
      with gin_config.missing_values_named():
        bake()

  def test_required_keyword_of_a_class(self):
    parse()
    with pytest.raises(ArgumentError, match="Cake.*'layers'.*--gin"):
      with gin_config.missing_values_named():
        Cake()

  def test_required_argument_of_a_nested_configurable(self):
    parse('--gin.Cake.layers=2', '--gin.Cake.oven=@bake()')
    with pytest.raises(ArgumentError, match="bake.*'flour'.*--gin"):
      with gin_config.missing_values_named():
        Cake()

  def test_gin_required_in_a_call(self):
    parse()
    with pytest.raises(ArgumentError, match="bake.*'flour'.*--gin"):
      with gin_config.missing_values_named():
        bake(flour=gin.REQUIRED)

  def test_other_errors_pass(self):
    with pytest.raises(TypeError, match='a defect'):
      with gin_config.missing_values_named():
        raise TypeError('a defect')


class TestOperativeConfig:
  def test_holds_what_was_used_and_can_be_read_again(self, workplace):
    parse('--gin.bake.flour="rye"', '--gin.oven.heat=5')
    bake()
    ((name, text),) = gin_config.operative_config().items()
    assert name == 'operative_config.gin'
    path = workplace / name
    path.write_text(text)
    assert re.search(r"bake\.flour = 'rye'", text)
    assert re.search(r'bake\.sugar = 1', text)
    assert 'oven' not in text
    parse(f'--gin_file={path}')
    assert bake() == ('rye', 1, 0)
