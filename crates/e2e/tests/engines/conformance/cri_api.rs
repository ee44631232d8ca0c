//! The part of the Kubernetes container runtime interface that the tests speak: messages and calls, written down from the
//! interface's field numbers (`runtime.v1`), so that no protobuf compiler is needed to build.

use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// Declares messages with plain fields: `name: kind = number`.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $type:ty = [$($attribute:tt)*],)* })*) => {
        $($(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        pub(super) struct $name {
            $($(#[$about])* #[prost($($attribute)*)] pub(super) $field: $type,)*
        })*
    };
}

messages! {
    VersionRequest { version: String = [string, tag = "1"], }
    VersionResponse {
        version: String = [string, tag = "1"],
        runtime_name: String = [string, tag = "2"],
    }
    PodMetadata {
        name: String = [string, tag = "1"],
        uid: String = [string, tag = "2"],
        namespace: String = [string, tag = "3"],
    }
    NamespaceOption {
        /// 0 the pod's, 1 the container's own, 2 the machine's.
        network: i32 = [int32, tag = "1"],
        pid: i32 = [int32, tag = "2"],
        ipc: i32 = [int32, tag = "3"],
    }
    PodSecurity { namespaces: Option<NamespaceOption> = [message, optional, tag = "1"], }
    PodLinux {
        cgroup_parent: String = [string, tag = "1"],
        security: Option<PodSecurity> = [message, optional, tag = "2"],
        sysctls: HashMap<String, String> = [map = "string, string", tag = "3"],
    }
    PodConfig {
        metadata: Option<PodMetadata> = [message, optional, tag = "1"],
        hostname: String = [string, tag = "2"],
        log_directory: String = [string, tag = "3"],
        linux: Option<PodLinux> = [message, optional, tag = "8"],
    }
    RunPodRequest { config: Option<PodConfig> = [message, optional, tag = "1"], }
    PodId { id: String = [string, tag = "1"], }
    Image { image: String = [string, tag = "1"], }
    Name { name: String = [string, tag = "1"], }
    Resources {
        cpu_period: i64 = [int64, tag = "1"],
        cpu_quota: i64 = [int64, tag = "2"],
        cpu_shares: i64 = [int64, tag = "3"],
        memory_limit: i64 = [int64, tag = "4"],
        oom_score_adj: i64 = [int64, tag = "5"],
    }
    Number { value: i64 = [int64, tag = "1"], }
    Count { value: u64 = [uint64, tag = "1"], }
    Security {
        namespaces: Option<NamespaceOption> = [message, optional, tag = "3"],
        run_as_user: Option<Number> = [message, optional, tag = "5"],
        readonly_rootfs: bool = [bool, tag = "7"],
        no_new_privs: bool = [bool, tag = "11"],
        masked_paths: Vec<String> = [string, repeated, tag = "13"],
    }
    Linux {
        resources: Option<Resources> = [message, optional, tag = "1"],
        security: Option<Security> = [message, optional, tag = "2"],
    }
    Mount {
        container_path: String = [string, tag = "1"],
        host_path: String = [string, tag = "2"],
        readonly: bool = [bool, tag = "3"],
    }
    ContainerConfig {
        metadata: Option<Name> = [message, optional, tag = "1"],
        image: Option<Image> = [message, optional, tag = "2"],
        command: Vec<String> = [string, repeated, tag = "3"],
        mounts: Vec<Mount> = [message, repeated, tag = "7"],
        log_path: String = [string, tag = "11"],
        linux: Option<Linux> = [message, optional, tag = "15"],
    }
    CreateRequest {
        pod: String = [string, tag = "1"],
        config: Option<ContainerConfig> = [message, optional, tag = "2"],
        pod_config: Option<PodConfig> = [message, optional, tag = "3"],
    }
    ContainerId { id: String = [string, tag = "1"], }
    StopRequest {
        id: String = [string, tag = "1"],
        timeout_seconds: i64 = [int64, tag = "2"],
    }
    ExecRequest {
        id: String = [string, tag = "1"],
        command: Vec<String> = [string, repeated, tag = "2"],
        timeout_seconds: i64 = [int64, tag = "3"],
    }
    ExecResponse {
        stdout: Vec<u8> = [bytes = "vec", tag = "1"],
        stderr: Vec<u8> = [bytes = "vec", tag = "2"],
        exit_code: i32 = [int32, tag = "3"],
    }
    UpdateRequest {
        id: String = [string, tag = "1"],
        linux: Option<Resources> = [message, optional, tag = "2"],
    }
    Memory { working_set: Option<Count> = [message, optional, tag = "2"], }
    Cpu { usage_ns: Option<Count> = [message, optional, tag = "2"], }
    Stats {
        cpu: Option<Cpu> = [message, optional, tag = "2"],
        memory: Option<Memory> = [message, optional, tag = "3"],
    }
    StatsResponse { stats: Option<Stats> = [message, optional, tag = "1"], }
    Status {
        /// 0 created, 1 running, 2 exited.
        state: i32 = [int32, tag = "3"],
        exit_code: i32 = [int32, tag = "7"],
    }
    StatusResponse { status: Option<Status> = [message, optional, tag = "1"], }
    Nothing {}
}

/// A connection to a container runtime's socket.
pub(super) struct Client {
    channel: Channel,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub(super) fn connect(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self { channel, runtime }
    }

    /// One call of `runtime.v1.RuntimeService`; an error is the server's message.
    pub(super) fn call<A, B>(&self, name: &str, request: A) -> Result<B, String>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{name}")).unwrap();
        let call = async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.map_err(|error| error.to_string())?;
            let codec = tonic_prost::ProstCodec::default();
            let answer = client.unary(tonic::Request::new(request), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
        };
        let limit = std::time::Duration::from_secs(60);
        let timed = async { tokio::time::timeout(limit, call).await };
        self.runtime.block_on(timed).unwrap_or_else(|_| Err(format!("{name} takes longer than {limit:?}")))
    }
}
