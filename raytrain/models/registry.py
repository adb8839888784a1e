"""Every neural model by name: what ``declared.py`` has of it, and its network."""

from raytrain.models.adsnet.pair import PseudoSiamese
from raytrain.models.base import NetworkBuilder, NeuralModel
from raytrain.models.baselines.cdaf import CdafNetwork
from raytrain.models.baselines.counter import CounterNetwork
from raytrain.models.baselines.din import din_network
from raytrain.models.baselines.dnn import DnnNetwork
from raytrain.models.baselines.eta import eta_network
from raytrain.models.baselines.full_attention import full_attention_network
from raytrain.models.baselines.ltv import LtvNetwork
from raytrain.models.baselines.minet import minet_network
from raytrain.models.baselines.sdim import sdim_network
from raytrain.models.baselines.sim import sim_network
from raytrain.models.baselines.star import star_network
from raytrain.models.baselines.twin import twin_network
from raytrain.models.declared import DECLARED
from raytrain.models.ecdctr.network import ecdctr_network, tpm_network
from raytrain.models.lcn.network import lcn_network

NETWORKS: dict[str, NetworkBuilder] = {
    "adsnet": PseudoSiamese,
    "ltv": LtvNetwork,
    "cdaf": CdafNetwork,
    "lcn": lcn_network,
    "din": din_network,
    "single_domain": din_network,
    "full_attention": full_attention_network,
    "sim": sim_network,
    "eta": eta_network,
    "sdim": sdim_network,
    "twin": twin_network,
    "minet": minet_network,
    "star": star_network,
    "ecdctr": ecdctr_network,
    "tpm": tpm_network,
    "dnn": DnnNetwork,
    "counter": CounterNetwork,
}
NEURAL_MODELS: dict[str, NeuralModel] = {
    name: NeuralModel(declaration.histories, declaration.tables, NETWORKS[name]) for name, declaration in DECLARED.items()
}
