//! What may stand where in a Compose file: the Compose specification as tables.
//!
//! The order of the fields is the order in which docker compose shows them; a service's hash depends on it.
//!
//! # Source
//! The Compose specification, `compose-spec.json`.

use crate::shape::Type::{
    Any, Bool, Bytes, Finished, Float, Hosts, Int, IntOr, List, Map, Mode, Names, OneOrMany, Optional, Options, Pairs,
    Path, Record as Of, Scalar, Short, Shorts, Source, Span, Test, Text, Word, Words,
};
use crate::shape::{Always, Record, Type};
use crate::short;

/// Each record: its name, the fields that it needs, what JSON always shows, and the fields.
macro_rules! record {
    ($($name:ident [$($required:literal),*] [$($shown:literal = $what:ident),*] { $($field:literal: $kind:expr,)* })*) => {
        $(pub(crate) static $name: Record = Record {
            fields: &[$(($field, $kind)),*],
            required: &[$($required),*],
            json_always: &[$(($shown, Always::$what)),*],
        };)*
    };
}

/// The whole file.
pub(crate) static FILE: Type = Of(&ROOT);

record! {
    ROOT [] [] {
        "name": Text,
        "version": Scalar,
        "include": List(&Short(short::include, &Of(&INCLUDE))),
        "services": Map(&Of(&SERVICE)),
        "networks": Map(&NETWORK_TYPE),
        "volumes": Map(&VOLUME_TYPE),
        "secrets": Map(&OBJECT_TYPE),
        "configs": Map(&OBJECT_TYPE),
        "models": Map(&MODEL_TYPE),
    }
    MODEL ["model"] [] { "name": Text, "model": Text, "context_size": Int, "runtime_flags": List(&Text), }
    MODEL_USE [] [] { "endpoint_var": Text, "model_var": Text, }
    INCLUDE [] [] {
        "path": OneOrMany(&Path),
        "env_file": OneOrMany(&Path),
        "project_directory": Path,
    }
    SERVICE [] ["command" = Null, "entrypoint" = Null] {
        "profiles": List(&Text),
        "annotations": WORDY,
        "attach": Bool,
        "build": Short(short::build, &Finished(&Of(&BUILD), short::finish_build)),
        "develop": Optional(&Of(&DEVELOP)),
        "blkio_config": Of(&BLKIO),
        "cap_add": List(&Text),
        "cap_drop": List(&Text),
        "cgroup_parent": Text,
        "cgroup": Word(&["host", "private"]),
        "cpu_count": Int,
        "cpu_percent": Float,
        "cpu_period": Type::Micros,
        "cpu_quota": Type::Micros,
        "cpu_rt_period": Type::Micros,
        "cpu_rt_runtime": Type::Micros,
        "cpus": Float,
        "cpuset": Text,
        "cpu_shares": Int,
        "command": Words,
        "configs": Shorts(short::object, &Of(&REFERENCE)),
        "container_name": Text,
        "credential_spec": Of(&CREDENTIAL),
        "depends_on": Names(short::dependency, &Finished(&Of(&DEPENDENCY), short::finish_dependency)),
        "deploy": Optional(&Of(&DEPLOY)),
        "device_cgroup_rules": List(&Text),
        "devices": Shorts(short::device, &Finished(&Of(&DEVICE), short::finish_device)),
        "dns": OneOrMany(&Text),
        "dns_opt": List(&Text),
        "dns_search": OneOrMany(&Text),
        "domainname": Text,
        "entrypoint": Words,
        "provider": Of(&PROVIDER),
        "environment": Pairs,
        "env_file": OneOrMany(&Short(short::env_file, &Of(&ENV_FILE))),
        "expose": List(&Scalar),
        "extends": Short(short::extends, &Of(&EXTENDS)),
        "external_links": List(&Text),
        "extra_hosts": Hosts,
        "group_add": List(&Scalar),
        "gpus": OneOrMany(&Short(short::gpu, &Finished(&Of(&GPU), short::finish_request))),
        "hostname": Text,
        "healthcheck": Of(&HEALTH),
        "image": Text,
        "init": Bool,
        "ipc": Text,
        "isolation": Text,
        "labels": Pairs,
        "label_file": OneOrMany(&Path),
        "links": List(&Text),
        "logging": Of(&LOGGING),
        "mem_limit": Bytes,
        "mem_reservation": Bytes,
        "memswap_limit": Bytes,
        "mem_swappiness": Bytes,
        "mac_address": Text,
        "models": Names(short::nothing, &Optional(&Of(&MODEL_USE))),
        "network_mode": Text,
        "networks": Names(short::nothing, &Optional(&Of(&ATTACHMENT))),
        "oom_kill_disable": Bool,
        "oom_score_adj": Int,
        "pid": Text,
        "pids_limit": Int,
        "platform": Text,
        "ports": Shorts(short::port, &Finished(&Of(&PORT), short::finish_port)),
        "privileged": Bool,
        "pull_policy": Text,
        "pull_refresh_after": Text,
        "read_only": Bool,
        "restart": Text,
        "runtime": Text,
        "scale": Int,
        "secrets": Shorts(short::object, &Finished(&Of(&REFERENCE), short::finish_secret)),
        "security_opt": List(&Text),
        "shm_size": Bytes,
        "stdin_open": Bool,
        "stop_grace_period": Span,
        "stop_signal": Text,
        "storage_opt": Options,
        "sysctls": WORDY,
        "tmpfs": OneOrMany(&Text),
        "tty": Bool,
        "ulimits": Map(&IntOr(&Of(&ULIMIT))),
        "use_api_socket": Bool,
        "user": Text,
        "userns_mode": Text,
        "uts": Text,
        "volumes": Shorts(short::volume, &Finished(&Of(&MOUNT), short::finish_mount)),
        "volumes_from": List(&Text),
        "working_dir": Text,
        "post_start": List(&Of(&HOOK)),
        "pre_stop": List(&Of(&HOOK)),
    }
    BUILD [] [] {
        "context": Source,
        "dockerfile": Text,
        "dockerfile_inline": Text,
        "entitlements": List(&Text),
        "args": Pairs,
        "provenance": Scalar,
        "sbom": Scalar,
        "ssh": Finished(&Pairs, short::finish_ssh),
        "labels": WORDY,
        "cache_from": List(&Text),
        "cache_to": List(&Text),
        "no_cache": Bool,
        "additional_contexts": Finished(&Pairs, short::finish_contexts),
        "pull": Bool,
        "extra_hosts": Hosts,
        "isolation": Text,
        "network": Text,
        "target": Text,
        "secrets": Shorts(short::object, &Of(&REFERENCE)),
        "shm_size": Bytes,
        "tags": List(&Text),
        "ulimits": Map(&IntOr(&Of(&ULIMIT))),
        "platforms": List(&Text),
        "privileged": Bool,
    }
    DEVELOP [] [] { "watch": List(&Finished(&Of(&TRIGGER), short::finish_trigger)), }
    TRIGGER ["path", "action"] ["exec" = Hook] {
        "path": Path,
        "action": Word(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
        "target": Text,
        "exec": Of(&HOOK),
        "include": OneOrMany(&Text),
        "ignore": OneOrMany(&Text),
        "initial_sync": Bool,
    }
    HOOK ["command"] [] {
        "command": Words,
        "user": Text,
        "privileged": Bool,
        "working_dir": Text,
        "environment": Pairs,
    }
    BLKIO [] [] {
        "weight": Int,
        "weight_device": List(&Of(&DEVICE_WEIGHT)),
        "device_read_bps": List(&Of(&DEVICE_RATE)),
        "device_read_iops": List(&Of(&DEVICE_RATE)),
        "device_write_bps": List(&Of(&DEVICE_RATE)),
        "device_write_iops": List(&Of(&DEVICE_RATE)),
    }
    DEVICE_WEIGHT ["path", "weight"] [] { "path": Text, "weight": Int, }
    DEVICE_RATE ["path", "rate"] [] { "path": Text, "rate": Bytes, }
    REFERENCE ["source"] [] {
        "source": Text,
        "target": Text,
        "uid": Scalar,
        "gid": Scalar,
        "mode": Mode,
    }
    CREDENTIAL [] [] { "config": Text, "file": Text, "registry": Text, }
    DEPENDENCY ["condition"] [] {
        "condition": Word(&["service_started", "service_healthy", "service_completed_successfully"]),
        "restart": Bool,
        "required": Bool,
    }
    DEPLOY [] ["resources" = Empty, "placement" = Empty] {
        "mode": Text,
        "replicas": Int,
        "labels": WORDY,
        "update_config": Of(&UPDATE),
        "rollback_config": Of(&UPDATE),
        "resources": Of(&RESOURCES),
        "restart_policy": Of(&RESTART_POLICY),
        "placement": Of(&PLACEMENT),
        "endpoint_mode": Text,
    }
    UPDATE [] [] {
        "parallelism": Int,
        "delay": Span,
        "failure_action": Text,
        "monitor": Span,
        "max_failure_ratio": Float,
        "order": Word(&["start-first", "stop-first"]),
    }
    RESOURCES [] [] { "limits": Of(&LIMITS), "reservations": Of(&RESERVATIONS), }
    LIMITS [] [] { "cpus": Float, "memory": Bytes, "pids": Int, }
    RESERVATIONS [] [] {
        "cpus": Float,
        "memory": Bytes,
        "devices": List(&Finished(&Of(&RESERVED_DEVICE), short::finish_request)),
        "generic_resources": List(&Any),
    }
    RESERVED_DEVICE ["capabilities"] [] {
        "capabilities": List(&Text),
        "driver": Text,
        "count": Type::Count,
        "device_ids": List(&Text),
        "options": WORDY,
    }
    GPU [] [] {
        "capabilities": List(&Text),
        "driver": Text,
        "count": Type::Count,
        "device_ids": List(&Text),
        "options": WORDY,
    }
    RESTART_POLICY [] [] { "condition": Text, "delay": Span, "max_attempts": Int, "window": Span, }
    PLACEMENT [] [] {
        "constraints": List(&Text),
        "preferences": List(&Any),
        "max_replicas_per_node": Int,
    }
    DEVICE ["source"] [] { "source": Text, "target": Text, "permissions": Text, }
    PROVIDER ["type"] [] { "type": Text, "options": Map(&Short(short::option, &List(&Scalar))), }
    ENV_FILE ["path"] [] { "path": Path, "required": Bool, "format": Text, }
    EXTENDS ["service"] [] { "file": Path, "service": Text, }
    HEALTH [] [] {
        "test": Test,
        "timeout": Span,
        "interval": Span,
        "retries": Int,
        "start_period": Span,
        "start_interval": Span,
        "disable": Bool,
    }
    LOGGING [] [] { "driver": Text, "options": Finished(&Options, short::finish_words), }
    ATTACHMENT [] [] {
        "aliases": List(&Text),
        "driver_opts": Options,
        "gw_priority": Int,
        "interface_name": Text,
        "ipv4_address": Text,
        "ipv6_address": Text,
        "link_local_ips": List(&Text),
        "mac_address": Text,
        "priority": Int,
    }
    PORT [] [] {
        "name": Text,
        "mode": Text,
        "host_ip": Text,
        "target": Int,
        "published": Scalar,
        "protocol": Text,
        "app_protocol": Text,
    }
    ULIMIT ["soft", "hard"] [] { "soft": Int, "hard": Int, }
    MOUNT ["type"] [] {
        "type": Word(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
        "source": Text,
        "target": Text,
        "read_only": Bool,
        "consistency": Text,
        "bind": Of(&MOUNT_BIND),
        "volume": Of(&MOUNT_VOLUME),
        "tmpfs": Of(&MOUNT_TMPFS),
        "image": Of(&MOUNT_IMAGE),
    }
    MOUNT_BIND [] [] {
        "selinux": Word(&["z", "Z"]),
        "propagation": Text,
        "create_host_path": Bool,
        "recursive": Word(&["enabled", "disabled", "writable", "readonly"]),
    }
    MOUNT_VOLUME [] [] { "labels": Pairs, "nocopy": Bool, "subpath": Text, }
    MOUNT_TMPFS [] [] { "size": Bytes, "mode": Int, }
    MOUNT_IMAGE [] [] { "subpath": Text, }
    NETWORK [] ["ipam" = Empty] {
        "name": Text,
        "driver": Text,
        "driver_opts": Options,
        "ipam": Of(&IPAM),
        "external": Any,
        "internal": Bool,
        "attachable": Bool,
        "labels": Pairs,
        "enable_ipv4": Bool,
        "enable_ipv6": Bool,
    }
    IPAM [] [] { "driver": Text, "config": List(&Of(&POOL)), "options": Options, }
    POOL [] [] { "subnet": Text, "gateway": Text, "ip_range": Text, "aux_addresses": Options, }
    VOLUME [] [] {
        "name": Text,
        "driver": Text,
        "driver_opts": Options,
        "external": Any,
        "labels": Pairs,
    }
    OBJECT [] [] {
        "name": Text,
        "file": Path,
        "environment": Text,
        "content": Text,
        "external": Any,
        "labels": Pairs,
        "driver": Text,
        "driver_opts": Options,
        "template_driver": Text,
    }
}

/// Names and scalars, of which none is nothing.
const WORDY: Type = Finished(&Pairs, short::finish_words);
/// A model of the file.
pub(crate) static MODEL_TYPE: Type = Of(&MODEL);
/// A network of the file.
pub(crate) static NETWORK_TYPE: Type = Optional(&Finished(&Of(&NETWORK), short::finish_external));
/// A volume of the file.
pub(crate) static VOLUME_TYPE: Type = Optional(&Finished(&Of(&VOLUME), short::finish_volume));
/// A secret or config of the file.
pub(crate) static OBJECT_TYPE: Type = Optional(&Finished(&Of(&OBJECT), short::finish_external));
