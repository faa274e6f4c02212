import types
import typing

import msgspec
import pytest

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS
from lvad_training.recipe.config import (
    batch_norm_of,
    load_recipe,
    parse_recipe,
    recipe_from_dict,
    recipe_to_dict,
    with_convolutional_heads,
)
from lvad_training.recipe.presets import FCOS_SCORE_THRESHOLD, OTHER_HEADS, PRESETS
from lvad_training.recipe.schema import Recipe

MINIMAL = {"data": {"root": "somewhere"}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "batch"),
        ({"preset": "edge"}, "batch"),
        ({"model": {"backbone": {"weights": "timm"}}}, "frozen"),
        ({"train": {"start_from": "a.pt"}}, "frozen"),
        ({"train": {"start_from": "a.pt", "batch_norm": "batch"}}, "batch"),
        ({"train": {"batch_norm": "sync"}}, "sync"),
    ],
    ids=str,
)
def test_batch_norm_is_frozen_where_the_backbone_is_pretrained(changes, expected):
    recipe = parse_recipe({"data": {"root": "x"}, **changes}, [], source="test")
    assert batch_norm_of(recipe) == expected


def test_a_recipe_of_an_older_version_trained_batch_norm():
    content = recipe_to_dict(parse_recipe({"data": {"root": "x"}, "train": {"start_from": "a.pt"}}, [], source="test"))
    del content["train"]["batch_norm"]
    assert batch_norm_of(recipe_from_dict(content, source="test")) == "batch"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_valid_recipe(preset):
    recipe = parse_recipe({**MINIMAL, "preset": preset}, [], source="test")
    assert recipe.model.detection is not None
    assert recipe_from_dict(recipe_to_dict(recipe), source="test") == recipe


def test_r50_is_the_papers_architecture():
    model = parse_recipe({**MINIMAL, "preset": "r50"}, [], source="test").model
    assert (model.backbone.name, model.neck_width) == ("resnet50", 256)
    detection, masks = model.detection, model.semantic
    assert (detection.proposals, detection.refinements, detection.width, detection.heads) == (100, 6, 256, 8)
    assert (detection.feedforward, detection.dynamic_width, detection.matches_per_truth) == (2048, 64, 1)
    assert (masks.queries, masks.layers, masks.pixel_loss) == (100, 6, False)


def test_precedence_is_preset_then_file_then_option(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("preset: tiny\ndata: {root: here}\nmodel: {neck_width: 64, detection: {heads: 2}}\n")
    recipe = load_recipe(path, ["model.neck_width=32", "train.learning_rate=6e-4", "data.only=[a, b]"])
    assert recipe.model.neck_width == 32
    assert recipe.model.detection.heads == 2
    assert recipe.model.detection.proposals == PRESETS["tiny"]["detection"]["proposals"]
    assert recipe.train.learning_rate == 6e-4
    assert recipe.data.only == ("a", "b")


def test_a_task_can_be_left_out():
    recipe = parse_recipe({**MINIMAL, "preset": "tiny"}, ["model.detection=null"], source="test")
    assert recipe.model.detection is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stesp=3", r"unknown field `stesp` - at `\$.train`; did you mean 'steps'\?"),
        ("train.foo=1", r"unknown field `foo` - at `\$.train`; known keys of train are accumulate, .*, weight_decay$"),
        ("foo=1", r"unknown field `foo`; known keys are data, loss, model, output, preset, stages, train$"),
        ("model.semantic.xyz=1", r"known keys of model.semantic are dropout, .*, mask_kernel, [a-z_, ]*width$"),
        ("train.steps=many", r"Expected `int`, got `str` - at `\$.train.steps`"),
        ("train.steps=0", "train.steps must be at least 1"),
        ("train.precision=fp8", "Invalid enum value 'fp8'"),
        ("model.network_hw=[100, 200]", r"model.network_hw\[0\] must be a multiple of 32"),
        ("model.detection.heads=7", "must be divisible by its 7 heads"),
        ("preset=r51", "preset 'r51' is unknown; choose one of r50, r18, edge, tiny"),
        ("preset=[r50]", r"preset \['r50'\] is unknown; choose one of r50, r18, edge, tiny"),
        ("model={detection: null, semantic: null, drivable: null}", "needs one of detection, semantic, drivable"),
        ("loss.score_map=0.4", "loss.score_map needs model.language.score_map: true"),
        ("model.detection.head=yolo", "model.detection.head is 'yolo'; choose sparse_rcnn or fcos"),
        ("model.drivable={head: fcos}", "model.drivable.head is 'fcos'; choose maskformer or semantic_fpn"),
        (
            "model.detection={head: fcos, proposals: 9}",
            "model.detection.proposals belongs to head sparse_rcnn, and this is fcos, whose keys are width, .*"
            "; leave it out, or set model.detection.head=sparse_rcnn",
        ),
        ("model.detection.strides=[8, 16]", "model.detection.strides belongs to head fcos, and this is sparse_rcnn"),
        ("model.semantic={head: semantic_fpn, queries: 9}", "model.semantic.queries belongs to head maskformer"),
        ("model.detection={head: fcos, strids: [8]}", r"unknown field `strids`.*did you mean 'strides'\?"),
        ("model.detection={head: fcos, strides: [8, 32]}", r"strides \[8, 32\] must begin with 4, 8, 16 or 32, double"),
        ("model={network_hw: [128, 64], detection: {head: fcos}}", "end with one cell for the whole image"),
        ("model.detection={head: fcos, overlap: 1.0}", "model.detection.overlap must be below 1"),
        ("model.detection={head: fcos, candidates: 5000}", "model.detection.candidates must be at most 3839"),
        ("model.detection={head: fcos, least_score: -1}", "model.detection.least_score must be at least 0"),
        ("model.detection={head: fcos, convolutions: 0}", "model.detection.convolutions must be at least 1"),
        ("model.detection={head: fcos, center_radius: 0}", "model.detection.center_radius must be above 0"),
        ("model.semantic={head: semantic_fpn, width: 0}", "model.semantic.width must be at least 1"),
        ("data.augment.scale=[2, 1]", r"must be \[low, high\]"),
        ("data.augment.flip=1.5", "data.augment.flip must be at most 1"),
        ("train.learning_rate=.nan", "train.learning_rate must be above 0"),
        ("train.learning_rate=.inf", "train.learning_rate must be finite"),
        ("train.weight_decay=-0.1", "train.weight_decay must be at least 0"),
        ("train.warmup_steps=-1", "train.warmup_steps must be at least 0"),
        ("train.seed=-1", "train.seed must be at least 0"),
        ("loss.semantic=-1", "loss.semantic must be at least 0"),
        ("loss.box_giou=.nan", "loss.box_giou must be at least 0"),
        ("model.neck_width=0", "model.neck_width must be at least 1"),
        ("model.semantic.queries=0", "model.semantic.queries must be at least 1"),
        ("stages.teachers={}", "stages.teachers names no checkpoint; its keys are detection, semantic, drivable"),
        (
            "stages.teachers={zzz: a.pt}",
            r"unknown field `zzz` - at `\$.stages.teachers`; known keys of stages.teachers are",
        ),
        ("stages={teach: {steps: 1}, teachers: {detection: a, semantic: b, drivable: c}}", "leave stages.teach out"),
        ("train.steps", "not of the form section.key=value"),
        ("train.steps=[1", "not valid YAML"),
        ("model=7", "model is not a mapping"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(override, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipe(MINIMAL, [override], source="recipe.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.drivable=null",
            "stages.teachers.drivable labels for a head that the model does not have; leave it out",
        ),
        ("data.pseudo=p", "stages.teachers makes its own data.pseudo; leave it out"),
        ("data.sampler=uniform", "stages.teachers gives every image labels of every task, so data.sampler must be sh"),
        (
            "model={vocabulary: nuimages, drivable: null}",
            "allows none of stages.teach, stages.teachers and data.pseudo",
        ),
    ],
)
def test_what_does_not_go_with_given_teachers(override, message):
    teachers = "stages.teachers={drivable: a.pt}"
    assert parse_recipe(MINIMAL, [teachers], source="test").stages.given == {"drivable": "a.pt"}
    with pytest.raises(ConfigError, match=message):
        parse_recipe(MINIMAL, [teachers, override], source="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "not a mapping of sections"),
        ("preset: tiny", "missing required field `data`"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.yaml: the recipe cannot be read"):
        load_recipe(tmp_path / "nothing.yaml")


def test_another_backbone_comes_without_the_options_of_the_presets():
    def backbone(**wanted):
        recipe = parse_recipe({"preset": "tiny", "data": {"root": "x"}, "model": {"backbone": wanted}}, [], source="t")
        return recipe.model.backbone

    assert backbone(name="resnet34").options == {}
    assert backbone(weights="w.pth").options == backbone(name="resnet18d").options != {}


def test_another_head_comes_without_the_keys_of_the_presets_usual_one():
    heads = {"detection": {"head": "fcos", "convolutions": 3}, "semantic": {"head": "semantic_fpn"}}
    model = parse_recipe({**MINIMAL, "preset": "tiny", "model": heads}, [], source="test").model
    assert (model.detection.convolutions, model.detection.width) == (3, OTHER_HEADS["tiny"]["fcos"]["width"])
    assert model.semantic.norm == "batch"
    assert model.score_threshold == FCOS_SCORE_THRESHOLD
    assert model.drivable.queries == PRESETS["tiny"]["drivable"]["queries"]


def test_a_convolutional_preset_can_have_heads_of_queries():
    heads = {task: {"head": head} for task, head in (("detection", "sparse_rcnn"), ("drivable", "maskformer"))}
    model = parse_recipe({**MINIMAL, "preset": "edge", "model": heads}, [], source="test").model
    assert model.detection.proposals == OTHER_HEADS["edge"]["sparse_rcnn"]["proposals"]
    assert model.drivable.queries == OTHER_HEADS["edge"]["maskformer"]["queries"]
    assert model.semantic.norm == "batch"
    assert model.score_threshold == 0.3
    wider = parse_recipe({**MINIMAL, "preset": "edge", "model": {"detection": {"convolutions": 3}}}, [], source="test")
    assert (wider.model.detection.convolutions, wider.model.score_threshold) == (3, FCOS_SCORE_THRESHOLD)


@pytest.mark.parametrize(
    ("detection", "usual"), [({"head": "fcos"}, FCOS_SCORE_THRESHOLD), ({"head": "sparse_rcnn"}, 0.3), (None, 0.3)]
)
def test_the_recipes_own_score_threshold_comes_before_the_heads(detection, usual):
    def threshold(**model):
        return parse_recipe(
            {**MINIMAL, "model": {"detection": detection, **model}}, [], source="t"
        ).model.score_threshold

    assert threshold() == usual
    assert threshold(score_threshold=0.2) == 0.2


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_convolutional_heads(preset):
    recipe = parse_recipe({**MINIMAL, "preset": preset}, [], source="test")
    found = with_convolutional_heads(recipe)
    assert recipe_from_dict(recipe_to_dict(found), source="test") == found
    assert all(hasattr(head, "norm") for head in (found.model.detection, found.model.semantic, found.model.drivable))
    assert parse_recipe(recipe_to_dict(found), [], source="test") == found


def test_recipes_of_checkpoints_without_the_key_head_still_load():
    content = recipe_to_dict(parse_recipe({**MINIMAL, "preset": "tiny"}, [], source="test"))
    older = {**content, "model": dict(content["model"])}
    for task in ("detection", "semantic", "drivable"):
        older["model"][task] = {key: value for key, value in content["model"][task].items() if key != "head"}
    assert older != content
    assert recipe_to_dict(recipe_from_dict(older, source="test")) == content


@pytest.mark.parametrize(("text", "expected"), [("no", "no"), ("'no'", "no"), ("bf16", "bf16")])
def test_no_is_a_word_in_files_and_on_the_command_line(text, expected, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: {{root: x}}\ntrain: {{precision: {text}}}\n")
    assert load_recipe(path).train.precision == expected
    assert parse_recipe(MINIMAL, [f"train.precision={text}"], source="test").train.precision == expected
    assert parse_recipe(MINIMAL, ["data.augment.crop=false"], source="test").data.augment.crop is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data: {root: a}\ntrain:\n  steps: 3\n# pasted\ntrain:\n  steps: 2\n",
            "the key 'train' is given twice, in lines 2 and 5",
        ),
        (
            "data:\n  root: a\n  workers: 0\n  root: b\n",
            "the key 'root' is given twice, in lines 2 and 4; keep one of the",
        ),
        ("data: {root: a, root: b}\n", "the key 'root' is given twice, in lines 1 and 1"),
        ('data: {root: a, "root": b}\n', "the key 'root' is given twice"),
        ("data: &d {root: a}\nmodel: {backbone: {options: {x: 1, x: 2}}}\n", "the key 'x' is given twice"),
    ],
)
def test_a_key_given_twice_is_named_with_its_lines(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_merged_key_may_be_given_again(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "data: {root: a}\nloss: &l {box_l1: 3.0, box_giou: 1.0}\nmodel: {backbone: {options: {<<: *l, box_l1: 4}}}\n"
    )
    assert load_recipe(path).model.backbone.options == {"box_l1": 4, "box_giou": 1.0}


@pytest.mark.parametrize("key", ["a\nb", "a\x1b[2Jb", "a\u2028b"])
def test_a_key_of_several_lines_is_reported_in_one(key):
    for content in ({**MINIMAL, key: 1}, {**MINIMAL, "train": {key: 1}}):
        with pytest.raises(ConfigError, match=r"unknown field `a\\.*; known keys") as caught:
            parse_recipe(content, [], source="test")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", [r'data: {root: "\ud800"}', r'data: {root: x, "\ud800": 1}', r'"\udfff": {}'])
def test_a_lone_surrogate_is_reported_with_its_line(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"not valid YAML \(found half of a UTF-16 pair .*line 1, column \d+"):
        load_recipe(path)
    with pytest.raises(ConfigError, match=r"--set data.root=.*: the value is not valid YAML; quote it"):
        parse_recipe(MINIMAL, [r'data.root="\ud800"'], source="test")


def test_an_option_with_a_duplicate_key_is_an_error():
    with pytest.raises(ConfigError, match=r"--set data=.*: the key 'root' is given twice"):
        parse_recipe(MINIMAL, ["data={root: a, root: b}"], source="test")


PATHS = {
    "data.root": lambda recipe: recipe.data.root,
    "data.lists": lambda recipe: recipe.data.lists,
    "data.pseudo": lambda recipe: recipe.data.pseudo,
    "model.backbone.weights": lambda recipe: recipe.model.backbone.weights,
    "model.language.text_encoder.weights": lambda recipe: recipe.model.language.text_encoder.weights,
    "model.language.text_encoder.name": lambda recipe: recipe.model.language.text_encoder.name,
    "train.start_from": lambda recipe: recipe.train.start_from,
    "stages.shared": lambda recipe: recipe.stages.shared,
    **{f"stages.teachers.{task}": lambda recipe, task=task: recipe.stages.given[task] for task in TASKS},
    "stages.teacher_backbone.weights": lambda recipe: recipe.stages.teacher_backbone.weights,
    "output": lambda recipe: recipe.output,
}


@pytest.mark.parametrize("key", PATHS)
def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch, tmp_path, key):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = parse_recipe(MINIMAL, [f"{key}=~/a b/c"], source="test")
    assert PATHS[key](recipe) == f"{tmp_path}/a b/c"
    with pytest.raises(
        ConfigError, match=rf"test: {key.rpartition('.')[2]} is '~nobody-at-all/x', and there is no such home"
    ):
        parse_recipe(MINIMAL, [f"{key}=~nobody-at-all/x"], source="test")


def test_every_path_of_a_recipe_is_among_those():
    texts = {path for path, hint in _texts(Recipe) if "Literal" not in hint}
    assert texts - PATHS.keys() <= {
        "data.train_split",
        "data.val_split",
        "model.backbone.name",
        "stages.teacher_backbone.name",
    }
    assert PATHS.keys() <= texts


def _texts(kind, prefix=""):
    """(a.b, type) of every field of a section, and of sections in it, that may be a text."""
    for name, hint in typing.get_type_hints(kind).items():
        parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else [hint]
        for part in parts:
            if isinstance(part, type) and not typing.get_origin(part) and issubclass(part, msgspec.Struct):
                yield from _texts(part, f"{prefix}{name}.")
            elif part is str:
                yield f"{prefix}{name}", str(hint)


def test_prefixes_of_names_are_no_paths():
    assert parse_recipe(MINIMAL, ["data.only=[~tmp]"], source="test").data.only == ("~tmp",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: &a {root: *a}", "not valid YAML"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
            "its anchors make more than 100,000 values",
        ),
        ("[" * 5000, "not valid YAML"),
        ("data: {root: 2020-13-45}", "not valid YAML .*month"),
        ("data: !!python/object/apply:os.system [id]", "not valid YAML .*python/object/apply"),
    ],
)
def test_yaml_that_would_run_code_or_fill_memory_is_refused(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)
