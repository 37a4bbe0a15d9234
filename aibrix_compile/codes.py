"""Every diagnostic code and its title. A code is never reused for another meaning; its page is specs/errors/<code>.md.

AC0xx parse, AC1xx schema, AC2xx meaning, AC3xx capacity, AC4xx policy of the project, AC5xx what the target can not do.
AC6xx simulation.
"""

from functools import cache
from pathlib import Path

TITLES = {
    "AC001": "the file is not valid YAML",
    "AC002": "a key is given twice",
    "AC003": "the file is not clean UTF-8 text",
    "AC004": "the file is too large, too deep or expands too far",
    "AC005": "a YAML feature that the language does not have",
    "AC101": "a field that does not exist",
    "AC102": "a required field is missing",
    "AC103": "a mapping, list or scalar stands where another kind of value belongs",
    "AC104": "a number or boolean in a spelling that has several readings",
    "AC105": "a quantity without its unit, or with a wrong one",
    "AC106": "a value that is not one of the known ones",
    "AC107": "a name or number outside its limits",
    "AC108": "a document that is no ModelService or Project",
    "AC109": "a field without a value",
    "AC110": "a strategy is one name with its parameters",
    "AC111": "a malformed address",
    "AC120": "a pattern matches no file",
    "AC121": "an overlay for a service that does not exist",
    "AC122": "an overlay removes what is not there",
    "AC123": "an item is removed by its name alone",
    "AC124": "a path leaves the project's folder",
    "AC125": "a file that is referred to can not be used",
    "AC126": "an ignore that is not allowed",
    "AC201": "two services have one name",
    "AC202": "two services answer to one model name",
    "AC203": "two items have one name",
    "AC204": "a name is too long for the objects that are named after it",
    "AC205": "the sizes of the model are unknown",
    "AC206": "an unknown accelerator",
    "AC207": "an unknown engine version",
    "AC208": "the engine has no such flag",
    "AC209": "a flag that the compiler sets itself",
    "AC210": "a flag does not take this value",
    "AC211": "a flag that the engine has deprecated",
    "AC212": "an adapter's rank is above the limit",
    "AC213": "replicas that contradict each other",
    "AC214": "a range of replicas without a scaler",
    "AC215": "an environment variable that is not clear or not free",
    "AC216": "an adapter is named like the model",
    "AC217": "a revision that may move",
    "AC218": "weights can not be loaded this way",
    "AC219": "a rollout that can not move",
    "AC220": "a label or annotation that is not free",
    "AC221": "two environments have one name",
    "AC222": "a destination that is not clear",
    "AC223": "a strategy without what it needs",
    "AC224": "a claim that is not clear, or that several replicas can not share",
    "AC225": "a reference to a service or tenant that does not exist",
    "AC226": "an ignore that nothing needs",
    "AC227": "the escape hatch is in use",
    "AC228": "a metric that scalers do not know",
    "AC229": "a target whose unit does not fit its metric",
    "AC230": "windows in the wrong order",
    "AC231": "more than the HorizontalPodAutoscaler can do",
    "AC232": "schedules that contradict each other",
    "AC233": "objectives that contradict each other",
    "AC234": "limits that contradict each other",
    "AC235": "times that do not fit each other",
    "AC236": "a secret in the open",
    "AC237": "a gateway that does not know its callers",
    "AC238": "everybody may call",
    "AC239": "a service that can not answer in another's place",
    "AC301": "the weights do not fit",
    "AC302": "the context does not fit beside the weights",
    "AC303": "the parallelism does not divide the model",
    "AC304": "more GPUs than the environment has",
    "AC305": "a surge for which there is no quota",
    "AC306": "a context longer than the model was made for",
    "AC307": "parallelism that crosses nodes at every layer",
    "AC308": "adapters for which there is no room",
    "AC309": "a gateway's configuration that no ConfigMap holds",
    "AC401": "an image from a registry that is not allowed",
    "AC402": "an image tagged latest",
    "AC403": "an image without a digest",
    "AC404": "more GPUs than the policy allows",
    "AC405": "a revision that is not locked",
    "AC406": "traffic that may pass unchecked",
    "AC501": "valid, but not compiled yet",
    "AC502": "no image is known for the engine",
    "AC503": "a replica that can not be spread evenly over nodes",
    "AC504": "a Kubernetes version that is not supported",
    "AC505": "spot nodes of an unknown provider",
    "AC506": "an object refers to something that does not exist",
    "AC507": "a foreign API that the environment does not declare",
    "AC508": "a group of pods that may never be unavailable",
    "AC509": "a setting that only a gateway enforces",
    "AC510": "a kind of gateway that is not compiled yet",
    "AC511": "a configuration that Envoy refuses",
    "AC601": "a trace of no known format",
    "AC602": "a trace file that can not be read to its end",
    "AC603": "a line that is no request",
    "AC604": "a value that no request has",
    "AC605": "requests out of order",
    "AC606": "a trace without requests",
    "AC607": "a log of several models",
    "AC608": "blocks that do not cover their prompt",
    "AC611": "a service that can not be simulated",
    "AC612": "a gate without anything to hold",
    "AC613": "a profile that no engine has",
}


@cache
def specs_folder() -> Path:
    """The folder `specs` of the checkout, or of the installed package."""
    inside = Path(__file__).parent / "specs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "specs"


def page(code: str) -> str:
    """The page of `code` as Markdown. KeyError for an unknown code."""
    TITLES[code]
    return (specs_folder() / "errors" / f"{code}.md").read_text("utf-8")
