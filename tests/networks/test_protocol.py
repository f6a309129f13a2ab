"""Networks keep the contract of `Network`, family by family."""

import inspect

import pytest

from openmm_les.networks.protocol import Network, NetworkModule
from openmm_les.networks.registry import families


@pytest.mark.parametrize("name", families())
def test_network_has_the_methods_of_the_protocol(name):
    network = families()[name].load("network")
    assert issubclass(network, NetworkModule)
    for method in ("short_range", "pull_back", "reserve", "outgrown"):
        expected = inspect.signature(getattr(Network, method)).parameters
        assert list(inspect.signature(getattr(network, method)).parameters) == list(expected)


@pytest.mark.parametrize("name", families())
def test_tape_is_the_same_named_tuple_forward_and_backward(name):
    network = families()[name].load("network")
    tape = inspect.signature(network.pull_back).parameters["tape"].annotation
    assert inspect.signature(network.short_range).return_annotation.__args__[2] is tape
    assert issubclass(tape, tuple)
    assert tape._fields


@pytest.mark.parametrize("name", families())
def test_constructor_takes_what_build_network_gives(name):
    network = families()[name].load("network")
    bound = inspect.signature(network).bind({}, {}, [], None)
    assert [*bound.arguments] == ["hyper", "state", "species", "form"]
