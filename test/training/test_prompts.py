import pytest
import torch
from torch import nn

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import VOCABULARIES
from lvad_training.model.prompts import ENGINEERING, ENSEMBLE, PHRASES, Prompts, phrase
from lvad_training.model.text_encoders import TextEncoderMetadata

from .conftest import StubEncoder

CLASSES = {"detection": ("car", "traffic light"), "drivable": ("direct", "alternative", "background")}


def make_prompts(mode="learned", encoder=None, **changes):
    torch.manual_seed(1)
    metadata = TextEncoderMetadata("stub", "0" * 64, 12, 6)
    usual = {"classes": CLASSES, "mode": mode, "context": 4, "metadata": metadata, "encoder": encoder}
    return Prompts(**{**usual, **changes})


@pytest.fixture
def encoder():
    return StubEncoder()


@pytest.mark.parametrize("mode", ["learned", "engineering", "ensembling"])
def test_every_class_has_a_row_of_length_one(encoder, mode):
    prompts = make_prompts(mode, encoder)
    text = prompts()
    assert text.shape == (5, 12)
    torch.testing.assert_close(text.norm(dim=1), torch.ones(5))
    assert prompts.slices == {"detection": slice(0, 2), "drivable": slice(2, 5)}
    assert len(text.detach().round(decimals=4).unique(dim=0)) == 5


def test_learned_prompts_put_their_contexts_before_the_words_of_the_class(encoder):
    prompts = make_prompts("learned", encoder)
    prompts()
    calls = encoder.calls[-2:]
    assert calls[0] == (4, ("car.", "traffic light."))
    assert calls[1] == (4, tuple(f"{words}." for words in PHRASES["drivable"].values()))


def test_hand_made_prompts_have_nothing_to_learn(encoder):
    for mode, templates in (("engineering", [ENGINEERING]), ("ensembling", list(ENSEMBLE))):
        encoder.calls.clear()
        prompts = make_prompts(mode, encoder)
        assert not list(prompts.parameters())
        assert [texts[0] for _, texts in encoder.calls] == [template.format("car") for template in templates]
        encoder.calls.clear()
        prompts.train()()
        prompts.fold()
        assert not encoder.calls  # encoded once, when it was built


def test_an_ensemble_is_the_mean_of_normalised_embeddings(encoder):
    prompts = make_prompts("ensembling", encoder)
    each = torch.cat([nn.functional.normalize(encoder.encode(None, [t.format("car")]), dim=1) for t in ENSEMBLE])
    torch.testing.assert_close(prompts()[0], nn.functional.normalize(each.mean(0), dim=0))


def test_two_tasks_have_different_contexts_and_so_different_text_for_the_same_class(encoder):
    prompts = make_prompts("learned", encoder, classes={"detection": ("car",), "semantic": ("car",)})
    assert prompts.contexts["detection"].shape == (4, 6)
    assert not torch.equal(prompts.contexts["detection"], prompts.contexts["semantic"])
    text = prompts()
    assert (text[0] - text[1]).abs().max() > 1e-3
    assert prompts.contexts["detection"].std() < 0.04


def test_one_step_moves_every_context_and_nothing_of_the_tower(encoder):
    prompts = make_prompts("learned", encoder).train()
    contexts = {task: value.clone() for task, value in prompts.contexts.items()}
    tower = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(prompts.parameters(), lr=1.0)
    prompts()[:, 0].sum().backward()
    optimizer.step()
    assert all((prompts.contexts[task] != before).any() for task, before in contexts.items())
    assert all(torch.equal(value, tower[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_encoder_is_no_part_of_the_module_but_moves_with_it(encoder):
    prompts = make_prompts("learned", encoder)
    assert sorted(prompts.state_dict()) == ["contexts.detection", "contexts.drivable", "embeddings"]
    assert len(list(prompts.parameters())) == 2
    nn.ModuleDict({"prompts": prompts}).to("meta")
    assert encoder.mix.weight.device.type == "meta"
    assert prompts.embeddings.device.type == "meta"


def test_evaluation_reads_what_was_folded_last(encoder):
    prompts = make_prompts("learned", encoder).eval()
    before = prompts().clone()
    with torch.no_grad():
        prompts.contexts["detection"].add_(1.0)
    assert torch.equal(prompts(), before)
    prompts.fold()
    assert not torch.equal(prompts()[:2], before[:2])
    assert torch.equal(prompts()[2:], before[2:])
    torch.testing.assert_close(prompts(), prompts.train()())


@pytest.mark.parametrize("mode", ["learned", "ensembling"])
def test_without_the_encoder_the_saved_prompts_give_the_same(encoder, mode):
    trained = make_prompts(mode, encoder).eval()
    again = make_prompts(mode).eval()
    assert not torch.equal(again(), trained())
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again(), trained())


def test_weights_with_other_templates_do_not_bring_their_text_along(encoder):
    ensemble = make_prompts("ensembling", encoder)
    wanted = ensemble().clone()
    ensemble.load_state_dict(make_prompts("engineering", encoder).state_dict())
    assert torch.equal(ensemble(), wanted)


def test_loaded_contexts_are_folded_at_once(encoder):
    trained = make_prompts("learned", encoder)
    with torch.no_grad():
        trained.contexts["drivable"].add_(1.0)
    again = make_prompts("learned", encoder).eval()
    again.load_state_dict(trained.state_dict())  # trained was not folded since
    torch.testing.assert_close(again(), trained.train()())


def test_learning_without_an_encoder_is_an_error(encoder):
    prompts = make_prompts("learned")
    with pytest.raises(ConfigError, match="built without one; build it with the encoder to train"):
        prompts.train()()
    with pytest.raises(ConfigError, match="built without one"):
        prompts.fold()


def test_phrases_are_for_classes_that_exist_and_differ():
    for task, words in PHRASES.items():
        assert words.keys() <= {name for known in VOCABULARIES.values() if task in known for name in known[task].names}
    for known in VOCABULARIES.values():
        for task, vocabulary in known.items():
            assert len({phrase(task, name) for name in vocabulary.names}) == len(vocabulary.names)
    assert phrase("detection", "construction_vehicle") == "construction vehicle"
    assert phrase("semantic", "traffic light") == "traffic light"
    assert len(set(ENSEMBLE)) == len(ENSEMBLE)
    assert all(template.count("{}") == 1 for template in ENSEMBLE)
