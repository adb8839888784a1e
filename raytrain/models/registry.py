"""Every model by name: one literal dict per kind."""

from raytrain.models.base import NeuralModel
from raytrain.models.baselines.counter import CounterNetwork, counter_tables, no_histories
from raytrain.models.baselines.din import DinNetwork, din_histories, din_tables
from raytrain.models.baselines.dnn import DnnNetwork, dnn_histories, dnn_tables

NEURAL_MODELS: dict[str, NeuralModel] = {
    "counter": NeuralModel(no_histories, counter_tables, CounterNetwork),
    "din": NeuralModel(din_histories, din_tables, DinNetwork),
    "single_domain": NeuralModel(din_histories, din_tables, DinNetwork),
    "dnn": NeuralModel(dnn_histories, dnn_tables, DnnNetwork, queries_item=False),
}
