//! What the reference runtimes do otherwise, by name: they keep passing, and everybody can read why.
//!
//! The reasons were seen with Debian 12's packages, runc 1.1.5 and crun 1.8.1. A test that passes although it is listed
//! says so on its standard output.

/// Test, subjects, reason; sorted.
const KNOWN: &[(&str, &str, &str)] = &[
    ("cgroups::a_block_device_that_does_not_exist_is_refused", "crun", "the groups of a refused container stay"),
    ("cgroups::a_burst_of_processor_time_is_allowed", "crun runc", "cpu.burst came later"),
    ("cgroups::a_frozen_group_is_refused", "crun", "hangs in a frozen group"),
    (
        "cgroups::a_group_with_a_process_in_it_is_refused_or_shared_knowingly",
        "crun",
        "the end of the second container ends the first",
    ),
    (
        "cgroups::a_limit_of_kernel_memory_is_set_or_passed_over",
        "runc",
        "kernel memory, that of TCP too, is ignored since 1.1",
    ),
    ("cgroups::a_size_of_huge_pages_that_does_not_exist_is_refused", "crun", "the groups of a refused container stay"),
    ("cgroups::an_idle_group_is_idle", "runc", "cpu.idle is for version 2 only"),
    (
        "cgroups::classes_and_priorities_of_packets_are_set_or_their_absence_is_said",
        "crun",
        "the groups of a refused container stay",
    ),
    ("cgroups::huge_pages_are_limited_or_their_absence_is_said", "crun", "the groups of a refused container stay"),
    ("cgroups::processor_time_is_shared_and_limited", "crun", "a quota of -1 is written as a large positive number"),
    ("cgroups::processor_values_that_the_kernel_refuses_are_refused", "crun", "the groups of a refused container stay"),
    ("cgroups::processors_that_do_not_exist_are_refused", "crun", "the groups of a refused container stay"),
    ("cgroups::rdma_is_limited_or_its_absence_is_said", "crun", "rdma is dropped"),
    ("cgroups::realtime_is_refused_or_given_but_not_dropped", "crun", "the groups of a refused container stay"),
    ("cgroups::swap_below_the_limit_is_refused", "crun", "the groups of a refused container stay"),
    (
        "cgroups::the_number_of_processes_is_limited",
        "crun",
        "pids.limit of -1 is written as it is, which version 1 refuses",
    ),
    (
        "cgroups::the_weight_of_block_devices_is_set",
        "crun",
        "writes blkio.weight where the kernel has blkio.bfq.weight or none",
    ),
    (
        "cgroups::unified_values_without_the_second_version_are_refused",
        "crun",
        "the groups of a refused container stay",
    ),
    ("command::a_rootless_configuration_has_a_user_namespace", "crun", "keeps the network namespace"),
    ("command::containers_are_listed", "crun", "the table has other columns"),
    ("command::processes_are_shown", "crun", "ps lists numbers only"),
    ("command::run_removes_the_container_unless_it_is_to_be_kept", "crun", "no --keep"),
    ("command::sockets_of_the_caller_are_handed_on_with_their_number", "crun", "LISTEN_PID stays the caller's"),
    ("config::a_domain_name_without_a_uts_namespace_is_refused", "runc", "domainname came in 1.2"),
    ("config::a_missing_version_is_refused", "runc", "the version is not looked at"),
    ("config::a_version_that_is_no_version_is_refused", "runc", "the version is not looked at"),
    ("config::another_major_version_is_refused", "runc", "the version is not looked at"),
    ("config::the_domain_name_is_set", "runc", "domainname came in 1.2"),
    ("config::versions_of_the_same_major_number_run", "crun", "knows 1.0 only"),
    ("devices::a_device_of_an_unknown_type_is_refused", "crun", "another type is taken as one of character devices"),
    ("devices::a_device_where_another_file_is_is_refused", "crun runc", "a file that is there is taken for the device"),
    ("devices::a_device_without_a_path_is_refused", "runc", "an empty path is taken for the root"),
    (
        "devices::a_rule_of_an_unknown_kind_is_refused",
        "crun runc",
        "runc drops unknown letters, crun leaves the groups of a refused container",
    ),
    (
        "devices::devices_are_bound_from_the_machine_in_a_user_namespace",
        "crun",
        "makes an empty file for a device that is not there",
    ),
    (
        "escapes::a_device_tree_of_the_image_is_not_trusted",
        "runc",
        "1.1.5 follows a link at /dev when it makes its links",
    ),
    ("events::counters_are_printed_again_and_again_until_the_end", "crun", "no events"),
    ("events::counters_are_printed_once", "crun", "no events"),
    ("events::the_end_of_memory_is_told", "crun", "no events"),
    ("exec::a_capability_can_be_added", "crun", "a capability that is added replaces the others"),
    ("exec::an_exec_can_be_put_into_a_group_below", "crun", "--cgroup takes no controllers"),
    ("exec::an_exec_has_the_containers_rights", "crun", "exec has not the container's score"),
    ("exec::further_groups_can_be_given", "crun", "no --additional-gids"),
    (
        "exec::the_environment_and_the_folder_are_the_containers_unless_given",
        "crun",
        "KEPT of the container wins over --env",
    ),
    ("features::the_features_are_complete", "crun", "features came in 1.9"),
    ("features::the_features_of_later_versions_are_told", "crun runc", "later fields came in crun 1.9 and runc 1.2"),
    (
        "hooks::a_hook_after_the_end_that_fails_does_not_keep_the_container",
        "runc",
        "further poststop hooks are not run after one has failed",
    ),
    ("hooks::a_hook_of_start_that_fails_stops_the_start", "crun runc", "start does not wait for startContainer hooks"),
    ("hooks::a_hook_without_a_path_or_with_a_relative_one_is_refused", "crun", "a relative path is taken"),
    (
        "hooks::hooks_after_the_end_run_after_a_failed_start_too",
        "crun",
        "poststop hooks are not run after a failed creation",
    ),
    (
        "hooks::hooks_get_the_state_on_standard_input",
        "crun runc",
        "the status of createRuntime is created with crun, that of poststart created with runc",
    ),
    (
        "hooks::hooks_run_in_their_order_and_once",
        "crun runc",
        "runc runs poststart hooks at create, crun runs poststart before startContainer has ended",
    ),
    (
        "lifecycle::a_changed_configuration_does_not_reach_a_created_container",
        "runc",
        "exec reads the configuration again",
    ),
    ("lifecycle::ids_that_are_paths_are_refused", "crun", "a leading slash is taken"),
    ("lifecycle::ids_with_odd_characters_are_refused", "crun", "any character but a slash is taken"),
    ("lifecycle::pause_and_resume_fail_where_they_make_no_sense", "crun", "resume of a running container succeeds"),
    ("lifecycle::signals_have_names_and_numbers", "crun", "an unknown signal is taken for signal 0"),
    ("linux::an_unknown_memory_policy_is_refused", "crun runc", "memoryPolicy came later"),
    ("linux::an_unknown_personality_is_refused", "crun runc", "personality came in runc 1.2; crun looks at no flags"),
    ("linux::an_unknown_propagation_of_the_root_is_refused", "crun", "an unknown word is dropped"),
    ("linux::cache_allocation_without_resctrl_is_refused", "crun", "intelRdt is dropped"),
    ("linux::the_memory_policy_is_set", "crun runc", "memoryPolicy came later"),
    ("linux::the_personality_is_set", "runc", "personality came in 1.2"),
    (
        "linux::the_propagation_of_the_root_is_set",
        "runc",
        "shared needs a shared parent, which 1.1 makes private first",
    ),
    ("malformed::a_nul_byte_in_a_string_is_refused", "crun", "strings end at the byte"),
    ("malformed::wrong_types_at_the_top_are_refused", "crun", "its parser passes over fields of the wrong type"),
    ("malformed::wrong_types_in_linux_are_refused", "crun", "its parser passes over fields of the wrong type"),
    ("malformed::wrong_types_in_process_are_refused", "crun", "its parser passes over fields of the wrong type"),
    (
        "mounts::a_mount_of_a_shared_source_becomes_its_slave",
        "crun",
        "slave gives a private mount where the mounts are private",
    ),
    ("mounts::ids_of_a_mount_are_mapped", "runc", "mapped mounts came in 1.2"),
    ("mounts::ids_of_a_mount_are_mapped_as_the_containers_by_an_option", "runc", "mapped mounts came in 1.2"),
    ("mounts::links_can_be_forbidden", "crun", "nosymfollow came later"),
    ("mounts::options_that_take_others_back_are_followed_in_their_order", "crun", "a later option takes nothing back"),
    ("mounts::proc_and_sys_can_be_mounted_only_as_what_they_are", "crun", "mounts over /proc are taken"),
    ("mounts::recursive_options_reach_what_is_mounted_below", "crun", "rnoatime is refused"),
    ("mounts::the_option_defaults_changes_nothing", "runc", "1.1.5 hands it to the file system"),
    ("mounts::the_propagation_of_a_mount_is_set", "crun", "shared gives a private mount where the mounts are private"),
    ("namespaces::a_namespace_twice_is_refused", "crun", "takes it"),
    ("namespaces::a_network_device_is_moved_into_the_container_and_renamed", "crun runc", "netDevices came later"),
    (
        "namespaces::a_network_device_that_does_not_exist_or_has_no_namespace_to_go_to_is_refused",
        "crun runc",
        "netDevices came later",
    ),
    ("namespaces::a_user_namespace_by_path_is_joined", "runc", "1.1 asks for mappings with a path as well"),
    (
        "namespaces::a_user_namespace_without_mappings_is_refused",
        "crun",
        "maps ids by itself where the machine has some for root",
    ),
    (
        "namespaces::offsets_without_a_time_namespace_are_refused",
        "crun runc",
        "time namespaces came in runc 1.2; crun drops the offsets",
    ),
    (
        "namespaces::the_clocks_of_a_time_namespace_are_moved",
        "crun runc",
        "time namespaces came in runc 1.2; crun 1.8 fails",
    ),
    ("process::a_capability_that_does_not_exist_is_not_granted_and_said", "crun", "dropped without a word"),
    ("process::a_priority_of_input_and_output_that_does_not_exist_is_refused", "crun runc", "ioPriority came later"),
    ("process::a_scheduler_that_does_not_exist_or_fit_is_refused", "crun runc", "scheduler came later"),
    ("process::a_working_folder_that_is_not_absolute_is_refused", "crun", "a relative folder is taken"),
    ("process::processors_of_an_exec_that_are_nonsense_are_refused", "crun runc", "execCPUAffinity came later"),
    ("process::the_priority_of_input_and_output_is_set", "crun runc", "ioPriority came later"),
    ("process::the_processors_of_an_exec_are_set", "crun runc", "execCPUAffinity came later"),
    ("process::the_same_kind_of_limit_twice_is_refused", "crun runc", "the last one wins"),
    ("process::the_scheduler_and_its_nice_value_are_set", "crun runc", "scheduler came later"),
    ("rootless::a_user_without_a_user_namespace_is_refused", "crun", "adds one by itself"),
    (
        "rootless::limits_that_a_user_can_not_set_are_refused_and_missing_groups_are_not",
        "crun",
        "runs without the limits",
    ),
    ("seccomp::a_filter_without_a_default_is_refused", "runc", "taken as if there were no filter"),
    ("seccomp::a_listener_that_is_not_there_is_refused", "crun", "notify without a listener is taken"),
    ("seccomp::flags_are_taken", "runc", "flags came in 1.2"),
    (
        "terminal::a_foreground_exec_uses_the_callers_terminal_and_its_size_follows",
        "crun",
        "the size is not handed on to an exec",
    ),
    ("terminal::a_foreground_run_uses_the_callers_terminal", "crun", "the size comes after the program has started"),
    ("terminal::a_socket_without_a_terminal_is_refused", "crun", "the socket is not looked at"),
    ("update::an_update_of_a_stopped_container_is_refused", "crun", "succeeds"),
    ("update::each_flag_sets_its_value", "crun", "a quota of -1 is written as a large positive number"),
];

/// Why a subject is known to fail a test.
pub(crate) fn reason(subject: &str, test: &str) -> Option<&'static str> {
    let entry = KNOWN.iter().find(|(name, subjects, _)| *name == test && subjects.split(' ').any(|one| one == subject));
    entry.map(|(_, _, reason)| *reason)
}

#[test]
fn the_table_is_sorted() {
    assert!(KNOWN.is_sorted_by(|one, other| one.0 < other.0));
}
