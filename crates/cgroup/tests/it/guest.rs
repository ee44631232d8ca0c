//! The kernel tests once more, in a guest whose only hierarchy is version 2 with every controller.

use testkit::guest::{Guest, is_inside};

#[test]
fn version_2_does_all_of_it_for_real() {
    if is_inside() {
        println!("skipped: this is the guest");
        return;
    }
    let Some(guest) = Guest::new_or_skip() else { return };
    let own = std::env::current_exe().unwrap();
    let outcome =
        guest.program(&own, "it").disk_mib(16).run(&["/bin/it", "kernel::", "--test-threads=1", "--nocapture"]);
    println!("{}", outcome.output);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    // A skip in there would make this test say nothing.
    assert!(outcome.output.contains("controllers: cpuset cpu io memory hugetlb pids"), "{}", outcome.output);
    assert!(!outcome.output.contains("skipped: the host") && !outcome.output.contains("skipped: no version 2"));
}
