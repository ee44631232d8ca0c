use super::*;

/// A counter of 1 GHz: a tick is a nanosecond.
fn scale() -> Scale {
    Scale::new(1_000_000)
}

fn on() -> Lapic {
    let mut lapic = Lapic::new(0, scale());
    lapic.write_page(0xf0, 0x1ff, 0);
    lapic
}

fn x2(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id, scale());
    lapic.set_base(lapic.base() | BASE_X2, scale()).unwrap();
    lapic.write_msr(reg::SVR, 0x1ff, 0).unwrap();
    lapic
}

fn fixed(lapic: &mut Lapic, vector: u8) {
    lapic.accept(Delivery::Fixed, vector, Trigger::Edge);
}

#[test]
fn higher_classes_go_first_and_nest() {
    let mut lapic = on();
    fixed(&mut lapic, 0x31);
    fixed(&mut lapic, 0x52);
    assert_eq!(lapic.take_vector(), Some(0x52));
    assert_eq!(lapic.take_vector(), None);
    fixed(&mut lapic, 0x5f);
    assert_eq!(lapic.deliverable(), None, "same class");
    fixed(&mut lapic, 0x60);
    assert_eq!(lapic.take_vector(), Some(0x60));
    assert_eq!(lapic.read_page(0xa0, 0), 0x60);
    for expect in [0x5f, 0x31] {
        lapic.write_page(0xb0, 0, 0);
        if expect == 0x5f {
            lapic.write_page(0xb0, 0, 0);
        }
        assert_eq!(lapic.take_vector(), Some(expect));
    }
}

#[test]
fn the_task_priority_holds_vectors_back() {
    let mut lapic = on();
    fixed(&mut lapic, 0x45);
    lapic.set_cr8(4);
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(lapic.read_page(0x80, 0), 0x40);
    lapic.set_cr8(3);
    assert_eq!(lapic.deliverable(), Some(0x45));
}

#[test]
fn only_levels_are_told_to_the_ioapic() {
    let mut lapic = on();
    fixed(&mut lapic, 0x40);
    lapic.take_vector();
    assert_eq!(lapic.write_page(0xb0, 0, 0), Effect::None);
    lapic.accept(Delivery::Fixed, 0x40, Trigger::Level);
    lapic.take_vector();
    assert_eq!(lapic.write_page(0xb0, 0, 0), Effect::Eoi(0x40));
    assert_eq!(lapic.write_page(0xb0, 0, 0), Effect::None);
}

#[test]
fn software_off_takes_no_vectors_and_masks_the_table() {
    let mut lapic = on();
    lapic.write_page(0x350, 0x700, 0);
    assert!(lapic.accepts_extint());
    lapic.write_page(0xf0, 0xff, 0);
    assert!(!lapic.accepts_extint());
    fixed(&mut lapic, 0x40);
    lapic.write_page(0x350, 0x700, 0);
    assert_eq!(lapic.read_page(0x350, 0), 0x700 | MASKED);
    lapic.write_page(0xf0, 0x1ff, 0);
    assert_eq!(lapic.deliverable(), None);
    lapic.accept(Delivery::Nmi, 0, Trigger::Edge);
    assert!(lapic.take_signals().nmi > 0);
}

#[test]
fn one_shot_fires_once() {
    let mut lapic = on();
    lapic.write_page(0x3e0, 0xb, 0);
    lapic.write_page(0x320, 0xec, 0);
    lapic.write_page(0x380, 100_000, 1_000);
    let due = lapic.due().unwrap();
    assert!(due.abs_diff(101_000) <= 2, "{due}");
    assert!(lapic.read_page(0x390, 51_000).abs_diff(50_000) <= 2);
    lapic.advance(100_000);
    assert_eq!(lapic.deliverable(), None);
    lapic.advance(due);
    assert_eq!(lapic.take_vector(), Some(0xec));
    assert_eq!((lapic.due(), lapic.read_page(0x390, due)), (None, 0));
}

#[test]
fn periods_divide_the_bus_clock() {
    let mut lapic = on();
    // Divide by 16.
    lapic.write_page(0x3e0, 3, 0);
    lapic.write_page(0x320, 1 << 17 | 0xec, 0);
    lapic.write_page(0x380, 10_000, 0);
    let first = lapic.due().unwrap();
    assert!(first.abs_diff(160_000) <= 2);
    lapic.advance(first);
    assert_eq!(lapic.take_vector(), Some(0xec));
    assert!(lapic.due().unwrap().abs_diff(320_000) <= 4);
    // Periods that nobody served are one.
    lapic.advance(10_000_000);
    assert!(lapic.due().unwrap() > 10_000_000);
}

#[test]
fn deadlines_are_one_shot_and_read_zero_afterwards() {
    let mut lapic = on();
    lapic.set_deadline(500);
    assert_eq!(lapic.deadline(), 0, "not in deadline mode");
    lapic.write_page(0x320, 2 << 17 | 0xec, 0);
    lapic.set_deadline(500);
    lapic.write_page(0x380, 7, 0);
    assert_eq!((lapic.deadline(), lapic.due()), (500, Some(500)));
    lapic.advance(500);
    assert_eq!((lapic.take_vector(), lapic.deadline(), lapic.due()), (Some(0xec), 0, None));
    lapic.set_deadline(900);
    lapic.write_page(0x320, 0xec, 0);
    assert_eq!(lapic.due(), None, "leaving the mode disarms");
}

#[test]
fn a_periodic_counter_begins_anew_before_its_interrupt_is_served() {
    let mut lapic = on();
    lapic.write_page(0x3e0, 0xb, 0);
    lapic.write_page(0x320, 1 << 17 | 0xec, 0);
    lapic.write_page(0x380, 1_000_000, 0);
    assert_eq!(lapic.read_page(0x390, 400_000), 600_000);
    assert_eq!(lapic.read_page(0x390, 2_300_000), 700_000);
    lapic.advance(2_300_000);
    assert_eq!((lapic.take_vector(), lapic.due()), (Some(0xec), Some(3_000_000)));
}

#[test]
fn masked_timers_are_silent() {
    let mut lapic = on();
    lapic.write_page(0x320, MASKED | 0xec, 0);
    lapic.write_page(0x380, 100, 0);
    lapic.advance(1_000_000);
    assert_eq!(lapic.deliverable(), None);
}

#[test]
fn the_command_register_sends() {
    let mut lapic = on();
    lapic.write_page(0x310, 3 << 24, 0);
    let sent = |effect| match effect {
        Effect::Send(message) => message,
        other => panic!("{other:?}"),
    };
    let message = sent(lapic.write_page(0x300, 0x4500, 0));
    assert_eq!((message.destination, message.delivery), (Destination::Physical(3), Delivery::Init));
    assert_eq!(lapic.write_page(0x300, 0x8500, 0), Effect::None, "de-assert");
    let message = sent(lapic.write_page(0x300, 0x4608, 0));
    assert_eq!((message.delivery, message.vector), (Delivery::Startup, 8));
    assert_eq!(sent(lapic.write_page(0x300, 0xc_00fd, 0)).destination, Destination::Others);
    assert_eq!(lapic.read_page(0x300, 0), 0xc_00fd);
    assert_eq!(lapic.read_page(0x310, 0), 3 << 24);
    let mut lapic = x2(1);
    let message = sent(lapic.write_msr(reg::ICR, 0x0001_0002_0000_08fb, 0).unwrap());
    assert_eq!(message.destination, Destination::Logical(0x1_0002));
    assert_eq!(sent(lapic.write_msr(reg::SELF_IPI, 0xf0, 0).unwrap()).destination, Destination::Sender);
}

#[test]
fn errors_are_latched_by_a_write() {
    let mut lapic = on();
    lapic.write_page(0x370, 0xfe, 0);
    assert_eq!(lapic.write_page(0x300, 0x0f, 0), Effect::None);
    assert_eq!(lapic.deliverable(), Some(0xfe));
    fixed(&mut lapic, 3);
    lapic.read_page(0x10, 0);
    assert_eq!(lapic.read_page(0x280, 0), 0);
    lapic.write_page(0x280, 0, 0);
    assert_eq!(lapic.read_page(0x280, 0), ESR_SEND | ESR_RECEIVE | ESR_REGISTER);
    lapic.write_page(0x280, 0, 0);
    assert_eq!(lapic.read_page(0x280, 0), 0);
}

#[test]
fn destinations_match_as_the_manual_says() {
    let mut flat = on();
    flat.write_page(0xd0, 4 << 24, 0);
    let logical = |lapic: &Lapic, id| lapic.matches(Destination::Logical(id), None);
    assert!(logical(&flat, 6) && !logical(&flat, 3) && logical(&flat, 0xff));
    flat.write_page(0xe0, 0x0fff_ffff, 0);
    flat.write_page(0xd0, 0x24 << 24, 0);
    assert!(logical(&flat, 0x2c) && !logical(&flat, 0x1c) && !logical(&flat, 0x22));
    let high = x2(0x13);
    assert_eq!(high.read_msr(reg::LDR, 0), Ok(0x1_0008));
    assert!(logical(&high, 0x1_0008) && !logical(&high, 8) && !logical(&high, 0xff));
    assert!(high.matches(Destination::Physical(0x13), None) && high.matches(Destination::Physical(0xff), None));
    assert!(!high.matches(Destination::Others, Some(0x13)) && high.matches(Destination::Others, Some(1)));
    assert!(high.matches(Destination::Sender, Some(0x13)));
}

#[test]
fn x2apic_denies_what_it_does_not_have() {
    let mut lapic = x2(0);
    assert_eq!(lapic.page(), None);
    for register in [0, reg::DFR, reg::ICR2, reg::EOI, reg::SELF_IPI, reg::APR, 0x7f] {
        assert_eq!(lapic.read_msr(register, 0), Err(Denied), "{register:#x}");
    }
    for (register, value) in
        [(reg::ID, 0), (reg::LDR, 0), (reg::VERSION, 0), (reg::EOI, 1), (reg::TPR, 0x100), (reg::TMCCT, 0)]
    {
        assert_eq!(lapic.write_msr(register, value, 0), Err(Denied), "{register:#x}");
    }
    assert_eq!(lapic.write_msr(reg::TPR, 0x20, 0), Ok(Effect::None));
    assert_eq!(on().read_msr(reg::ID, 0), Err(Denied));
}

#[test]
fn modes_change_only_as_allowed() {
    let mut lapic = on();
    let base = lapic.base();
    assert_eq!(lapic.set_base(base & !BASE_ON | BASE_X2, scale()), Err(Denied));
    assert_eq!(lapic.set_base(base | 1, scale()), Err(Denied));
    lapic.set_base(base | BASE_X2, scale()).unwrap();
    assert_eq!(lapic.set_base(base, scale()), Err(Denied));
    lapic.set_base(base & !BASE_ON, scale()).unwrap();
    assert!(!lapic.matches(Destination::All, None));
    assert_eq!(lapic.set_base(base | BASE_X2, scale()), Err(Denied));
    lapic.set_base(base, scale()).unwrap();
}

#[test]
fn init_comes_before_startup() {
    let mut lapic = on();
    lapic.accept(Delivery::Nmi, 0, Trigger::Edge);
    lapic.accept(Delivery::Init, 0, Trigger::Edge);
    lapic.accept(Delivery::Startup, 0x9a, Trigger::Edge);
    assert_eq!(lapic.take_signals(), Signals { nmi: 0, init: true, startup: Some(0x9a) });
    assert!(!lapic.signals().any());
}

#[test]
fn pages_go_round() {
    let mut lapic = x2(2);
    lapic.write_msr(reg::LVT_TIMER, 1 << 17 | 0x80, 0).unwrap();
    lapic.write_msr(reg::TDCR, 0xb, 0).unwrap();
    lapic.write_msr(reg::TMICT, 1_000_000, 0).unwrap();
    fixed(&mut lapic, 0x77);
    lapic.take_vector();
    lapic.accept(Delivery::Fixed, 0x91, Trigger::Level);
    let page = lapic.save(400_000);
    assert_eq!(page.len(), LAPIC_SIZE);
    let mut other = Lapic::new(2, scale());
    other.restore_base(lapic.base());
    other.restore(&page, 5_000_000).unwrap();
    assert_eq!(other.save(5_000_000), page);
    assert!(other.due().unwrap().abs_diff(5_600_000) <= 4);
    assert_eq!(other.take_vector(), Some(0x91));
    assert_eq!(other.restore(&page[..100], 0), Err(Denied));
}
