//! One vocabulary below the facades: what a container is asked to be, what it is, and what happens to it.
//!
//! Everything here is plain data that is stored as JSON; nothing here touches the kernel.

mod container;
mod event;
mod exec;
mod health;
mod ids;
mod network;
mod ranges;
mod spec;

pub use container::{Container, Finished, IdRange, Phase, Process, Runtime, VolumeMount};
pub use event::{Event, EventKind};
pub use exec::{Exec, ExecSpec, ExecState};
pub use health::{Health, HealthCheck, HealthStatus, Probe};
pub use ids::{ContainerId, ExecId, NetworkId};
pub use network::{
    DEFAULT_NETWORK, Driver, Endpoint, EndpointLink, EndpointRequest, LinkOptions, Member, Network, NetworkSpec,
    PublishRequest, Tunnel,
};
pub use spec::{
    BlockLimit, CgroupMode, ContainerSpec, DeviceRequest, DriverRequest, IpcMode, LogDriver, LogKind, Mount, MountKind,
    NamespaceModes, NetworkMode, PidMode, Propagation, ReadOnlyDepth, Resources, RestartPolicy, SeccompChoice,
    Security, Ulimit, UserMode, UtsMode, VolumesFrom,
};
