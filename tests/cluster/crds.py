"""KubeRay's published CRDs as JSON Schema that also refuses what a cluster would silently drop.

A CRD is OpenAPI v3 with extensions of Kubernetes: `nullable` and `format: int32` mean nothing to a JSON Schema validator, an
int-or-string has no type, and an object without `x-kubernetes-preserve-unknown-fields` loses every key that its schema does not name.
"""

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FOLDER = Path(__file__).parent / "kuberay_crds"
FILES = {"RayCluster": "ray.io_rayclusters.yaml.gz", "RayJob": "ray.io_rayjobs.yaml.gz"}
# Kubernetes' own, which a CRD leaves open.
OBJECT_META = {"name", "generateName", "namespace", "labels", "annotations"}
LIMITS = {"int32": 2**31 - 1, "int64": 2**63 - 1}


def problems_of(manifest: dict[str, Any]) -> list[str]:
    """What a cluster with KubeRay would refuse or drop of the manifest; empty if it would take all of it."""
    kind = manifest["kind"]
    if kind not in FILES:
        return [f"kind {kind}"]
    crd, schema = _crd(kind), _schema(kind)
    version = f"{crd['spec']['group']}/v1"
    found = [] if manifest["apiVersion"] == version else [f"apiVersion {manifest['apiVersion']}"]
    found += [f"metadata.{key}" for key in manifest["metadata"] if key not in OBJECT_META]
    return [
        *found,
        *(f"{error.json_path}: {error.message}" for error in _validator(kind).iter_errors(manifest)),
        *_repeated(manifest, schema, "$"),
    ]


@cache
def _crd(kind: str) -> dict[str, Any]:
    text = gzip.decompress((FOLDER / FILES[kind]).read_bytes())
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert crd["spec"]["names"]["kind"] == kind
    return crd


@cache
def _schema(kind: str) -> dict[str, Any]:
    version = next(version for version in _crd(kind)["spec"]["versions"] if version["name"] == "v1" and version["served"])
    schema = json_schema(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@cache
def _validator(kind: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(_schema(kind))


def json_schema(node: dict[str, Any]) -> dict[str, Any]:
    """The same in the words of JSON Schema, closed where Kubernetes prunes."""
    result = {key: value for key, value in node.items() if key not in ("description", "nullable", "format", "default")}
    if "properties" in node:
        result["properties"] = {name: json_schema(child) for name, child in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            result[key] = json_schema(node[key])
    if node.get("type") == "object" and "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    if node.get("format") in LIMITS:
        most = LIMITS[node["format"]]
        result |= {"minimum": max(-most - 1, node.get("minimum", -most - 1)), "maximum": min(most, node.get("maximum", most))}
    if node.get("nullable"):
        result = {"anyOf": [{"type": "null"}, result]}
    return result


def _repeated(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Entries of a list that Kubernetes keeps by key, and would merge or refuse."""
    if isinstance(value, dict):
        for key, child in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if isinstance(below, dict):
                yield from _repeated(child, below, f"{path}.{key}")
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        # A port's protocol is TCP where it is not said.
        seen = [tuple(entry.get(key, "TCP" if key == "protocol" else None) for key in keys) for entry in value] if keys else []
        if len(set(seen)) < len(seen):
            yield f"{path}: entries of one {keys}"
        for index, child in enumerate(value):
            yield from _repeated(child, schema.get("items", {}), f"{path}[{index}]")
