"""Every neural model by name: what ``declared.py`` has of it, and its network."""

from raytrain.models.base import NetworkBuilder, NeuralModel
from raytrain.models.baselines.counter import CounterNetwork
from raytrain.models.baselines.din import din_network
from raytrain.models.baselines.dnn import DnnNetwork
from raytrain.models.declared import DECLARED
from raytrain.models.lcn.network import lcn_network

NETWORKS: dict[str, NetworkBuilder] = {
    "lcn": lcn_network,
    "din": din_network,
    "single_domain": din_network,
    "dnn": DnnNetwork,
    "counter": CounterNetwork,
}
NEURAL_MODELS: dict[str, NeuralModel] = {
    name: NeuralModel(declaration.histories, declaration.tables, NETWORKS[name]) for name, declaration in DECLARED.items()
}
