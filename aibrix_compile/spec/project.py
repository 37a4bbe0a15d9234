"""Project (aibrix.yaml): where services run, what that costs, and what is allowed. The file a platform engineer owns."""

from typing import Literal

from aibrix_compile.spec.base import Model, field
from aibrix_compile.spec.free import FreeList
from aibrix_compile.spec.modelservice import API_VERSION
from aibrix_compile.spec.types import (
    Bool,
    Bytes,
    Cost,
    Count,
    DnsLabel,
    DnsName,
    HttpUrl,
    Image,
    Positive,
    Text,
)


class ProjectMetadata(Model):
    name: DnsLabel = field("Name of the project.", "assistants")


class Images(Model):
    mirror: Text | None = field("Registry and folder that mirror public images.", "registry.example.com/mirror", None)
    controllers: Image | None = field(
        "Image of the picker and the controllers, built from controllers/; none is published yet.",
        "registry.example.com/aibrix/controllers:0.1.0",
        None,
    )
    runtime: Image | None = field(
        "Image of the sidecar beside each engine, built from runtime_images/runtime; none is published yet. Default: no"
        " sidecar, and no adapters.",
        "registry.example.com/aibrix/runtime:0.1.0",
        None,
    )


class AcceleratorSite(Model):
    """What an environment says about an accelerator; a name that the catalog does not know needs `like`."""

    like: DnsName | None = field(
        "Accelerator of the catalog that this one is. Default: its own name.", "nvidia-l4", None
    )
    nodeSelector: dict[str, Text] | None = field(
        "Node labels. Default: those of the vendor's feature discovery.",
        {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        None,
    )
    tolerations: FreeList = field(
        "Tolerations of the nodes' taints.", [{"key": "nvidia.com/gpu", "operator": "Exists"}], []
    )
    gpusPerNode: Positive | None = field("GPUs of one node. Default: the catalog's.", 4, None)
    pricePerGPUHour: Cost | None = field(
        "Price of one GPU for an hour. Default: the catalog's list price.", "0.71 USD", None
    )
    quota: Count | None = field("GPUs there are. Default: unknown, and no surge is planned.", 16, None)


class Tls(Model):
    secret: DnsName = field("Secret with tls.crt and tls.key in the gateway's namespace.", "llm-tls")


class GatewayService(Model):
    type: Literal["ClusterIP", "LoadBalancer", "NodePort"] = field(
        "Type of the gateway's Service.", "LoadBalancer", "ClusterIP"
    )
    annotations: dict[str, Text] = field(
        "Annotations of that Service.", {"networking.gke.io/load-balancer-type": "Internal"}, {}
    )


class ApiKeys(Model):
    secret: DnsName = field("Secret in the gateway's namespace with one entry per tenant.", "tenant-keys")


class Tenant(Model):
    name: DnsLabel = field("Name of the tenant.", "acme")
    requestsPerMinute: Positive | None = field("Requests per minute. Default: no limit.", 600, None)
    tokensPerMinute: Positive | None = field("Tokens per minute. Default: no limit.", 200000, None)


class Picker(Model):
    image: Image | None = field(
        "Its image. Default: images.controllers of the project.", "registry.example.com/aibrix/controllers:0.1.0", None
    )
    replicas: Positive | None = field("Pickers. Default: as many as the gateway has replicas.", 2, None)


class Gateway(Model):
    mode: Literal["envoy", "gateway-api"] = field("Own data plane, or an existing Gateway.", "envoy", "envoy")
    namespace: DnsLabel = field("Namespace of the gateway.", "llm-gateway", "llm-gateway")
    replicas: Positive = field("Replicas of the gateway.", 2, 2)
    hostname: DnsName | None = field("Host name of the endpoint.", "llm.example.com", None)
    tls: Tls | None = field("Certificate.", {"secret": "llm-tls"}, None)
    service: GatewayService = field("The gateway's Service.", {"type": "LoadBalancer"}, GatewayService)
    bodyLimit: Bytes = field("Largest request body.", "32Mi", 32 * 2**20)
    apiKeys: ApiKeys | None = field("Keys of the tenants.", {"secret": "tenant-keys"}, None)
    tenants: list[Tenant] = field("Who may call.", [{"name": "acme", "requestsPerMinute": 600}], [])
    image: Text = field(
        "Envoy's image; it has bash.", "docker.io/envoyproxy/envoy:v1.40.0", "docker.io/envoyproxy/envoy:v1.40.0"
    )
    headers: Bool = field("Say in each answer's headers which replica it came from, and why.", True, True)
    picker: Picker = field("What chooses replicas, where Envoy alone does not do.", {"replicas": 2}, Picker)


class Destination(Model):
    server: Text | None = field("API server of the cluster.", "https://kubernetes.default.svc", None)
    name: Text | None = field("Or: name of the cluster in Argo CD.", "prod-eu", None)


def _in_cluster() -> Destination:
    return Destination(server="https://kubernetes.default.svc")


class ArgoCD(Model):
    repoURL: Text = field("Repository with the rendered manifests.", "https://git.example.com/llm/deploy")
    targetRevision: Text = field("Branch or tag that is synced.", "main", "main")
    path: Text = field("Folder of this environment in that repository.", "deploy/prod")
    project: DnsName = field("Argo CD project.", "llm", "default")
    namespace: DnsLabel = field("Namespace of Argo CD.", "argocd", "argocd")
    destination: Destination = field(
        "Cluster that is deployed to.", {"server": "https://kubernetes.default.svc"}, _in_cluster
    )


PolicyRule = Literal["latest-tag", "unpinned-image", "fail-open", "unlocked-revision"]


class Policy(Model):
    forbid: list[PolicyRule] = field("What no service of the environment may do.", ["latest-tag", "unpinned-image"], [])
    maxGPUs: Positive | None = field("Most GPUs of all services together.", 64, None)
    adapterSources: list[Text] = field("Where adapters may come from. Default: anywhere.", ["s3://adapters/"], [])
    registries: list[Text] = field("Registries that images may come from. Default: any.", ["registry.example.com"], [])


class S3(Model):
    endpoint: HttpUrl = field("Endpoint of the object store.", "https://minio.example.com")
    region: Text | None = field("Region.", "eu-central-1", None)


class Storage(Model):
    s3: S3 | None = field("Where s3:// leads.", {"endpoint": "https://minio.example.com"}, None)


class Environment(Model):
    name: DnsLabel = field("Name of the environment, and of its output folder.", "prod")
    namespace: DnsLabel = field("Namespace of the services.", "assistants")
    kubernetes: Text = field("Kubernetes minor version that is targeted.", "1.34", "1.34")
    apis: list[Text] = field("Foreign APIs that the cluster has.", ["monitoring.coreos.com/v1"], [])
    overlays: list[Text] = field("Overlay files, in order.", ["overlays/prod.yaml"], [])
    storage: Storage = field("Object stores.", {"s3": {"endpoint": "https://minio.example.com"}}, Storage)
    accelerators: dict[str, AcceleratorSite] = field(
        "Where accelerators are, what they cost and how many there are.", {"nvidia-l4": {"quota": 16}}, {}
    )
    gateway: Gateway | None = field("The gateway of the environment.", {"hostname": "llm.example.com"}, None)
    argocd: ArgoCD | None = field(
        "Emit Argo CD Applications.", {"repoURL": "https://git.example.com/llm/deploy", "path": "deploy/prod"}, None
    )
    policy: Policy = field("Rules that a model owner can not waive.", {"forbid": ["latest-tag"]}, Policy)


class ProjectSpec(Model):
    services: list[Text] = field("Files of the services; globs allowed.", ["services/*.yaml"])
    lock: Text = field("Lock file with digests and commits.", "aibrix.lock", "aibrix.lock")
    images: Images = field("Where images come from.", {"mirror": "registry.example.com/mirror"}, Images)
    environments: list[Environment] = field("Where the services run.", [{"name": "prod", "namespace": "assistants"}])


class Project(Model):
    apiVersion: Literal["serving.aibrix.ai/v1alpha1"] = field("Version of the language.", API_VERSION)
    kind: Literal["Project"] = field("Kind of the document.", "Project")
    metadata: ProjectMetadata = field("Name.", {"name": "assistants"})
    spec: ProjectSpec = field(
        "The project.", {"services": ["services/*.yaml"], "environments": [{"name": "prod", "namespace": "assistants"}]}
    )
