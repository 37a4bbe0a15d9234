"""From paths on the command line to documents: the only part of the compiler that walks the file system.

The nearest aibrix.yaml upward is the Project; its services are always read whole, because names, quotas and policy are
matters between services. Nothing outside the project's folder is opened, whatever a spec asks for. Without a Project the
services that are named (or lie in the named folder) form one, with built-in defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aibrix_compile.catalog import models
from aibrix_compile.diagnostics import CompileError, Diagnostic, Problem, Severity, UsageError
from aibrix_compile.diagnostics import Path as SpecPath
from aibrix_compile.lock import Lock, Locked, LockedAdapter
from aibrix_compile.overlay import merge
from aibrix_compile.spec.decode import decode, sound
from aibrix_compile.spec.modelservice import API_VERSION, ModelService
from aibrix_compile.spec.project import Environment, Project
from aibrix_compile.yamlio import Document, Map, Place, Plain, Seq, SourceFile, parse, read

PROJECT_FILE = "aibrix.yaml"
_OTHER_KINDS = ("Project", "AdapterSet", "ScalingPolicy")
_BUILT_IN = Environment(name="default", namespace="default")


@dataclass(slots=True)
class Workspace:
    """What was read. `selected` holds the names of the services' files that the command line asked for; None = all."""

    root: Path
    project: Project | None = None
    project_document: Document | None = None
    environments: tuple[Environment, ...] = (_BUILT_IN,)
    services: list[Document] = field(default_factory=list)
    overlays: dict[str, list[Document]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)
    selected: frozenset[str] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    problems: list[tuple[Problem, Document]] = field(default_factory=list)
    _files: dict[Path, list[Document]] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)

    def documents(self, path: Path, quiet: bool = False) -> list[Document]:
        """The documents of a file; what is wrong with it goes to `diagnostics`. `quiet`: only if it is one of ours."""
        path = path.resolve()
        if path not in self._files:
            self._files[path] = self._read(path, quiet)
        return self._files[path]

    def _read(self, path: Path, quiet: bool) -> list[Document]:
        name = self.name(path)
        try:
            source = read(path, name)
            self.sources[name] = source.text
            if quiet and API_VERSION.partition("/")[0] not in source.text:
                return []
            documents, findings = parse(source)
        except CompileError as error:
            if not quiet or b"serving.aibrix.ai" in path.read_bytes():
                self.diagnostics += error.diagnostics
            return []
        except OSError as error:
            raise UsageError(f"can not read {name}: {(error.strerror or str(error)).lower()}") from None
        self.diagnostics += findings
        return documents

    def name(self, path: Path) -> str:
        """A file's name in messages: relative to the project's folder, with `/`."""
        path = path.resolve()
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    def report(self, code: str, place: Place, message: str, hint: str = "", at_key: bool = False) -> None:
        self.diagnostics.append(Diagnostic(code, Severity.ERROR, message, place.span(at_key), hint))

    # --- what a spec refers to

    def expand(self, pattern: str, place: Place, base: Path) -> list[Path]:
        """The files that `pattern` names, sorted; none is a finding, and so is one outside the project's folder."""
        parts = Path(pattern).parts
        if not parts or Path(pattern).is_absolute() or parts.count("**") > 1:
            self.report(
                "AC124",
                place,
                f'"{pattern}" is no path inside the project',
                "write a path relative to this file's folder",
            )
            return []
        start = base
        while parts and parts[0] == "..":
            start, parts = start.parent, parts[1:]
        if not start.resolve().is_relative_to(self.root) or ".." in parts:
            self.report(
                "AC124", place, f'"{pattern}" leaves the project\'s folder', "keep the files of a project in its folder"
            )
            return []
        found = sorted(p for p in start.glob("/".join(parts)) if p.is_file()) if parts else []
        if outside := [p for p in found if not p.resolve().is_relative_to(self.root)]:
            self.report(
                "AC124",
                place,
                f'"{pattern}" leads out of the project\'s folder through {outside[0].name}',
                "remove the link",
            )
            return []
        if not found:
            self.report(
                "AC120", place, f'"{pattern}" matches no file', f"patterns are relative to {self.name(base) or '.'}"
            )
        return found

    def merged(self, service: Document, environment: str) -> tuple[Document, set[SpecPath]]:
        """The service's document under the overlays of `environment`, its includes and its config.json read in, and the
        paths that could not be read in."""
        root, unread = service.value, set[SpecPath]()
        for overlay in self.overlays.get(environment, ()):
            if service_name(overlay) == service_name(service):
                root = merge(root, overlay.value, self.report)
        spec = root.get("spec")
        if isinstance(spec, Map):
            shaped = self._shaped(spec)
            if shaped is None:
                model = spec["model"]
                shaped = _replace(spec, "model", _without(model, "shape"))
                unread.add(("spec", "model", "shape"))
            root = _replace(root, "spec", self._included(self._sourced(shaped)))
        return Document(root, service.place), unread

    def _included(self, spec: Map) -> Map:
        adapters = spec.get("adapters")
        include = adapters.get("include") if isinstance(adapters, Map) else None
        if not isinstance(adapters, Map) or not isinstance(include, Seq):
            return spec
        items = Seq()
        own = adapters.get("items")
        if own is not None and not isinstance(own, Seq):
            return spec
        for item, place in zip(own or (), own.at if own else (), strict=True):
            items.put(item, place)
        for pattern, place in zip(include, include.at, strict=True):
            if isinstance(pattern, str):
                for path in self.expand(pattern, place, self._folder(place.source)):
                    self._include(path, place, items)
        place = adapters.at.get("items", adapters.at["include"])
        return _replace(spec, "adapters", _replace(adapters, "items", items, place))

    def _include(self, path: Path, place: Place, items: Seq) -> None:
        for document in self.documents(path):
            value = document.value
            found = value.get("adapters") if isinstance(value, Map) and len(value) == 1 else None
            if not isinstance(found, Seq):
                self.report(
                    "AC125",
                    document.place,
                    "an included file holds one list: adapters",
                    "write adapters: [{name: ..., uri: ...}]",
                )
                continue
            for item, item_place in zip(found, found.at, strict=True):
                items.put(item, item_place)

    def _shaped(self, spec: Map) -> Map | None:
        """The spec with the sizes of the config.json that it names; None when they can not be had."""
        model = spec.get("model")
        written = model.get("shape") if isinstance(model, Map) else None
        if not isinstance(model, Map) or not isinstance(written, str):
            return spec
        place, shape = model.at["shape"], Map()
        for path in self.expand(written, place, self._folder(place.source)):
            try:
                config = json.loads(read(path, self.name(path)).text)
                sizes = models.from_config(config if isinstance(config, dict) else {})
            except KeyError as missing:
                self.report(
                    "AC125",
                    place,
                    f"{self.name(path)} has no {missing.args[0]}",
                    "use the model's own config.json, or write the sizes here",
                )
                continue
            except (ValueError, TypeError, AttributeError, RecursionError, CompileError):
                self.report(
                    "AC125", place, f"{self.name(path)} is no config.json of a model", "use the model's own config.json"
                )
                continue
            for key, value in sizes.items():
                shape.put(key, Plain(str(value)), place)
        return _replace(spec, "model", _replace(model, "shape", shape)) if shape else None

    def _sourced(self, spec: Map) -> Map:
        """The spec with the text of the module that a custom strategy names instead of its file's name."""
        maps = [spec]
        for key in ("routing", "strategy", "custom"):
            inner = maps[-1].get(key)
            if not isinstance(inner, Map):
                return spec
            maps.append(inner)
        place, written = maps[-1].at.get("source"), maps[-1].get("source")
        if place is None or not isinstance(written, str):
            return spec
        for path in self.expand(written, place, self._folder(place.source))[:1]:
            try:
                maps[-1] = _replace(maps[-1], "source", Plain(read(path, self.name(path)).text))
            except CompileError:
                self.report("AC125", place, f"{self.name(path)} is no text file of a module", "write a Python file")
        custom = maps[-1]
        return _replace(spec, "routing", _replace(maps[1], "strategy", _replace(maps[2], "custom", custom)))

    def _folder(self, source: SourceFile) -> Path:
        return (self.root / source.name).parent


def load(paths: Sequence[Path], cwd: Path) -> Workspace:
    """Read what `paths` (files or folders; none = `cwd`) belong to. UsageError when there is nothing to read."""
    for path in paths:
        if not (cwd / path).exists():
            raise UsageError(f"{path}: no such file or folder")
    starts = [(cwd / path).resolve() for path in paths] or [cwd.resolve()]
    projects = {_project_above(start) for start in starts}
    if len(projects) > 1:
        raise UsageError(
            "the paths belong to different projects: " + ", ".join(sorted(str(p or "none") for p in projects))
        )
    (project_file,) = projects
    if project_file is None:
        workspace = Workspace(root=_common(starts))  # not the current folder: output does not depend on it
        for start in starts:
            _find_services(workspace, start)
        if not workspace.services and not workspace.diagnostics:
            raise UsageError(
                f"no ModelService in {', '.join(str(p) for p in paths) or 'this folder'}; `aibrix-compile init` writes a first one"
            )
        return workspace
    workspace = Workspace(root=project_file.parent)
    _read_project(workspace, project_file)
    _select(workspace, [s for s in starts if s not in (project_file, project_file.parent)])
    if (
        not (workspace.services or workspace.diagnostics or workspace.problems)
        and workspace.project
        and workspace.project.spec.services
    ):
        raise UsageError(f"{PROJECT_FILE} names no ModelService")
    return workspace


def service_name(document: Document) -> str | None:
    value = document.value
    metadata = value.get("metadata") if isinstance(value, Map) else None
    name = metadata.get("name") if isinstance(metadata, Map) else None
    return str(name) if isinstance(name, str) else None


def _project_above(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    return None


def _common(paths: Sequence[Path]) -> Path:
    folders = [p if p.is_dir() else p.parent for p in paths]
    return next(f for f in (folders[0], *folders[0].parents) if all(p.is_relative_to(f) for p in folders))


def _find_services(workspace: Workspace, start: Path) -> None:
    if start.is_file():
        _add_services(workspace, workspace.documents(start))
        return
    for path in _yaml_files(start):
        _add_services(workspace, [d for d in workspace.documents(path, quiet=True) if _kind(d) == "ModelService"])


def _kind(document: Document) -> str:
    """The kind that a document means to be: one of ours with a misspelled kind is a ModelService with a mistake in it."""
    value = document.value
    if not isinstance(value, Map):
        return "no mapping"
    kind, version = value.get("kind"), value.get("apiVersion")
    ours = isinstance(version, str) and version.startswith(API_VERSION.partition("/")[0])
    return "ModelService" if kind in (None, "ModelService") or (ours and kind not in _OTHER_KINDS) else f"kind {kind}"


def _yaml_files(folder: Path) -> Iterator[Path]:
    """Sorted; hidden folders and links to folders are passed by."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _yaml_files(entry)
        elif entry.suffix in (".yaml", ".yml") and entry.is_file():
            yield entry


def _add_services(workspace: Workspace, documents: Iterable[Document]) -> None:
    for document in documents:
        if document.value is None or id(document) in workspace._known:
            continue
        workspace._known.add(id(document))
        if (kind := _kind(document)) == "ModelService":
            workspace.services.append(document)
        else:
            place = document.value.at["kind"] if isinstance(document.value, Map) else document.place
            hint = "write kind: ModelService, or leave this file out"
            workspace.report("AC108", place, f"a ModelService is expected, not {kind}", hint)


def _read_project(workspace: Workspace, file: Path) -> None:
    documents = workspace.documents(file)
    if not documents:
        if not workspace.diagnostics:
            raise UsageError(f"{PROJECT_FILE} is empty")
        return
    document = workspace.project_document = documents[0]
    decoded = decode(Project, document.value)
    workspace.problems += [(problem, document) for problem in decoded.problems]
    if decoded.model is None:
        return
    workspace.project = decoded.model
    spec = decoded.model.spec
    workspace.lock = _read_lock(workspace, spec.lock, document)
    if sound(decoded.invalid, ("spec", "services")):
        patterns = document.value["spec"]["services"]
        for pattern, place in zip(patterns, patterns.at, strict=True):
            for path in workspace.expand(pattern, place, workspace.root):
                _add_services(workspace, workspace.documents(path))
    names = {service_name(service) for service in workspace.services}
    usable = []
    for index, environment in enumerate(spec.environments):
        if not sound(decoded.invalid, ("spec", "environments", index)):
            continue
        usable.append(environment)
        if environment.overlays:
            written = document.value["spec"]["environments"][index]["overlays"]
            found = [
                p
                for pattern, place in zip(written, written.at, strict=True)
                for p in workspace.expand(pattern, place, workspace.root)
            ]
            workspace.overlays[environment.name] = list(_overlays(workspace, found, names))
    workspace.environments = tuple(usable)


def _overlays(workspace: Workspace, files: Sequence[Path], names: set[str | None]) -> Iterator[Document]:
    """The sound overlays of `files`: each is validated by itself first, so its mistakes are its own."""
    for path in files:
        for document in workspace.documents(path):
            if document.value is None:
                continue
            alone = (
                _without_shape(merge(Map(), document.value, lambda *_: None))
                if isinstance(document.value, Map)
                else document.value
            )
            decoded = decode(ModelService, alone, partial=True)
            written = Document(alone, document.place)
            workspace.problems += [(problem, written) for problem in decoded.problems]
            if decoded.model is None:
                continue
            name = service_name(document)
            if name is None:
                workspace.report(
                    "AC102",
                    document.place,
                    "metadata.name says which service an overlay changes",
                    "add metadata: {name: ...}",
                )
            elif name not in names:
                place = document.value["metadata"].at["name"]
                known = ", ".join(sorted(n for n in names if n)) or "none"
                workspace.report("AC121", place, f'there is no service "{name}" to overlay', f"services: {known}")
            else:
                yield document


def override(workspace: Workspace, text: str, name: str) -> None:
    """One more overlay for every environment, from the command line; `name` stands for its file in messages."""
    source = SourceFile(name, text)
    workspace.sources[name] = text
    try:
        documents, findings = parse(source)
    except CompileError as error:
        workspace.diagnostics += error.diagnostics
        return
    workspace.diagnostics += findings
    for environment in workspace.environments:
        workspace.overlays[environment.name] = [*workspace.overlays.get(environment.name, ()), *documents]


def _read_lock(workspace: Workspace, name: str, document: Document) -> Lock:
    path = (workspace.root / name).resolve()
    if not path.is_relative_to(workspace.root):
        workspace.report(
            "AC124", document.value["spec"].at["lock"], f'"{name}" leaves the project\'s folder', "keep the lock in it"
        )
        return Lock()
    documents = workspace.documents(path) if path.is_file() else []
    if not documents:
        return Lock()
    root = documents[0].value
    section = partial(_section, workspace, documents[0])
    if not isinstance(root, Map) or not root.keys() <= {"images", "models", "adapters"}:
        workspace.report("AC125", documents[0].place, "a lock has images, models and adapters", "write it anew")
        return Lock()
    adapters = {
        uri: LockedAdapter(
            str(entry.get("digest", "")), int(entry["rank"]) if str(entry.get("rank", "")).isdecimal() else None, where
        )
        for uri, entry, where in section("adapters", Map)
    }
    return Lock(
        {image: Locked(str(digest), where) for image, digest, where in section("images", str)},
        {model: Locked(str(commit), where) for model, commit, where in section("models", str)},
        adapters,
    )


def _section(workspace: Workspace, document: Document, name: str, kind: type) -> Iterator[tuple[str, Any, str]]:
    entries = document.value.get(name)
    if not isinstance(entries, Map):
        if entries is not None:
            workspace.report("AC125", document.value.at[name], f"{name} of a lock is a mapping", "write it anew")
        return
    for key, value in entries.items():
        place = entries.at[key]
        if isinstance(value, kind):
            yield key, value, f"{place.source.name}:{place.span(at_key=True).line}"
        else:
            workspace.report(
                "AC125", place, f"the lock's entry for {key} can not be read", "write it anew", at_key=True
            )


def _select(workspace: Workspace, starts: Sequence[Path]) -> None:
    if not starts:
        return
    selected: set[str] = set()
    overlays = [document for documents in workspace.overlays.values() for document in documents]
    for start in starts:
        name = workspace.name(start)
        if changed := {service_name(d) for d in overlays if d.source.name == name}:
            selected |= {d.source.name for d in workspace.services if service_name(d) in changed}
        elif start.is_file():
            _add_services(workspace, workspace.documents(start))
            selected.add(name)
        else:
            inside = {
                d.source.name
                for d in workspace.services
                if (workspace.root / d.source.name).resolve().is_relative_to(start)
            }
            if not inside:
                raise UsageError(f"{workspace.name(start)}: {PROJECT_FILE} names no service in this folder")
            selected |= inside
    workspace.selected = frozenset(selected)


def _replace(node: Map, key: str, value: object, place: Place | None = None) -> Map:
    result = Map()
    for name, old in node.items():
        result.put(name, old, node.at[name])
    result.put(key, value, place or node.at[key])
    return result


def _without_shape(root: Map) -> Map:
    """An overlay without the path of a config.json, which is no shape before it is read in."""
    spec = root.get("spec")
    model = spec.get("model") if isinstance(spec, Map) else None
    if not isinstance(spec, Map) or not isinstance(model, Map) or not isinstance(model.get("shape"), str):
        return root
    return _replace(root, "spec", _replace(spec, "model", _without(model, "shape")))


def _without(node: Map, key: str) -> Map:
    result = Map()
    for name, old in node.items():
        if name != key:
            result.put(name, old, node.at[name])
    return result
