"""The files that deploy it: they can be read, what they name exists, and no secret stands in them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lance_assets.assets.deploying.deployment import DEPLOYMENTS
from lance_assets.assets.deploying.instance import POSTGRES

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VALUES = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())
CLUSTER = yaml.safe_load((DEPLOY / "helm" / "raycluster.yaml").read_text())
(LOCATION,) = VALUES["dagster-user-deployments"]["deployments"]
IS_SECRET = re.compile("(?i)password|secret|access_key|token")


def walk(value: object, name: str = "") -> list[tuple[str, object]]:
    """Every value of a file that holds no others, with the name that it stands under."""
    if isinstance(value, dict):
        # Kubernetes names a variable beside its value.
        own = str(value["name"]) if {"name", "value"} <= value.keys() else ""
        return [pair for key, each in value.items() for pair in walk(each, own if key == "value" else str(key))]
    if isinstance(value, list):
        return [pair for each in value for pair in walk(each, name)]
    return [(name, value)]


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("*.yaml")), ids=lambda file: file.name)
def test_no_secret_stands_in_a_file(file: Path) -> None:
    """A value under a secret's name is asked of the environment, or is the name of a Secret, or empty."""
    found = [(name, value) for name, value in walk(yaml.safe_load(file.read_text())) if IS_SECRET.search(name)]
    for name, value in found:
        is_from_outside = isinstance(value, str) and re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)
        assert is_from_outside or name.endswith("SecretName") or value in ("", False), f"{name}: {value}"


def test_the_example_of_the_environment_names_every_secret_and_none_of_its_values() -> None:
    given = dict(line.split("=", 1) for line in (DEPLOY / "env.example").read_text().splitlines() if "=" in line)
    needed = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert set(given) == needed
    assert not any(given.values())
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_service_of_compose_has_what_it_needs() -> None:
    services = COMPOSE["services"]
    assert {"code", "webserver", "daemon", "postgres", "objects"} == set(services)
    for name in ("code", "webserver", "daemon"):
        service = services[name]
        assert set(POSTGRES) <= set(service["environment"]), name
        assert service["environment"]["LANCE_DEPLOYMENT"] in DEPLOYMENTS
        assert "data:/lance" in service["volumes"]
    volumes = {volume.split(":")[0] for each in services.values() for volume in each["volumes"]}
    assert {one for one in volumes if one.isidentifier()} == set(COMPOSE["volumes"])
    # Only this machine reaches what listens.
    ports = [port for each in services.values() if "ports" in each for port in each["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    (location,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    assert location["grpc_server"]["host"] in services


def test_what_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert set(copied) == sent
    extras = set(next(line for line in lines if line.startswith("ARG EXTRAS=")).partition("=")[2].split(","))
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert extras <= set(known)


def find_linter(name: str) -> str:
    """A program of the deployments' environment; a test that needs it is skipped elsewhere."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed: make test-deploy installs it")
    return found


def lint(*command: str) -> None:
    """Run a linter, which finds nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    lint(find_linter("hadolint"), "--no-color", str(DEPLOY / "Dockerfile"))


def test_the_compose_file_follows_composes_own_schema() -> None:
    """That of the Compose specification, which the checker brings along."""
    lint(find_linter("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


def test_the_values_of_helm_follow_the_charts_schema() -> None:
    """The chart's own file is not kept here."""
    schema = os.environ.get("LANCE_TEST_HELM_SCHEMA")
    if not schema:
        pytest.skip("LANCE_TEST_HELM_SCHEMA is not set to values.schema.json of the chart (helm pull dagster/dagster)")
    lint(find_linter("check-jsonschema"), "--schemafile", schema, str(DEPLOY / "helm" / "values.yaml"))


BUILT = re.compile(r"docker build \S+ deploy/Dockerfile --build-arg EXTRAS=(\S+)")


def test_the_image_that_a_page_builds_has_what_its_page_needs() -> None:
    """Everything that a pod may be told to use: the store, the engine, PostgreSQL, and both kinds of steps."""
    (extras,) = BUILT.findall((ROOT / "docs" / "deploy" / "kubernetes.md").read_text())
    assert {"postgres", "k8s", "ray", "s3", "vllm"} == set(extras.split(","))
    comment = (DEPLOY / "Dockerfile").read_text().partition("FROM")[0]
    assert all(re.search(rf"\b{extra}\b", comment) for extra in extras.split(","))


def test_the_commands_of_the_image_are_those_that_are_asked_for() -> None:
    script = (DEPLOY / "start.sh").read_text()
    known = re.findall(r"^(\w+)\) exec ", script, flags=re.MULTILINE)
    asked = [service["command"][0] for service in COMPOSE["services"].values() if "build" in service]
    assert sorted(asked) == sorted(known)
    assert (DEPLOY / "start.sh").stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", DEPLOY / "start.sh"], check=False).returncode == 0


@pytest.mark.slow
def test_the_container_starts_with_an_instance_of_its_own(tmp_path: Path) -> None:
    """Any other command runs as it is given, with the instance's file written."""
    place = f"cd {ROOT}"
    script = (DEPLOY / "start.sh").read_text().replace("cd /opt/lance", place)
    assert place in script
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(tmp_path / "dagster")}
    done = subprocess.run(
        ["sh", "-c", script, "lance-start", "echo", "two words"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "two words\n"
    assert (tmp_path / "dagster" / "dagster.yaml").exists()


def test_the_values_of_helm_choose_kubernetes_and_one_volume() -> None:
    told = {each["name"]: each["value"] for each in LOCATION["env"]}
    assert told["LANCE_DEPLOYMENT"] in DEPLOYMENTS
    (mount,) = [each for each in LOCATION["volumeMounts"] if each["mountPath"] == told["LANCE_HOME"]]
    volumes = {each["name"]: each for each in LOCATION["volumes"]}
    claimed = volumes[mount["name"]]["persistentVolumeClaim"]["claimName"]
    assert claimed in [each["metadata"]["name"] for each in VALUES["extraManifests"]]
    assert LOCATION["includeConfigInLaunchedRuns"]["enabled"]
    module = LOCATION["dagsterApiGrpcArgs"][-1]
    assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists()
    images = [VALUES["dagsterWebserver"]["image"], VALUES["dagsterDaemon"]["image"], LOCATION["image"]]
    assert all(image == images[0] for image in images)


def test_the_ray_cluster_has_the_pinned_ray_and_the_same_volume() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert CLUSTER["spec"]["rayVersion"] == pinned[1]
    pods = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]
    for pod in pods:
        spec = pod["template"]["spec"]
        (container,) = spec["containers"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}
        assert container["image"].partition(":")[0] == VALUES["dagsterWebserver"]["image"]["repository"]
