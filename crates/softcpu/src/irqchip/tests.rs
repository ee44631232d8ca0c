use super::*;

#[derive(Default)]
struct Woken(Mutex<Vec<u32>>);

impl Wake for Woken {
    fn wake(&self, index: u32) {
        self.0.lock().unwrap().push(index);
    }
}

/// `vcpus` processors in xAPIC mode, switched on, and who was woken.
fn machine(vcpus: u32) -> (Irqchip, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    let chip = Irqchip::new(vcpus, Arc::new(GuestClock::new()), Arc::clone(&woken) as Arc<dyn Wake>);
    for vcpu in 0..vcpus {
        assert!(chip.mmio_write(vcpu, 0xfee0_00f0, &0x1ffu32.to_le_bytes()));
    }
    woken.0.lock().unwrap().clear();
    (chip, woken)
}

fn redirect(chip: &Irqchip, pin: u32, entry: u64) {
    for half in 0..2 {
        assert!(chip.mmio_write(0, ioapic::BASE, &(0x10 + pin * 2 + half).to_le_bytes()));
        assert!(chip.mmio_write(0, ioapic::BASE + 0x10, &((entry >> (32 * half)) as u32).to_le_bytes()));
    }
}

#[test]
fn a_level_goes_through_the_ioapic_until_it_is_low() {
    let (chip, woken) = machine(2);
    redirect(&chip, 5, 1 << 56 | 1 << 15 | 0x41);
    assert!(chip.set_line(5, Level::High));
    assert_eq!(*woken.0.lock().unwrap(), [1]);
    assert!(chip.has_vector(1) && !chip.has_vector(0));
    assert_eq!(chip.take_vector(1), Some(0x41));
    assert!(!chip.has_vector(1));
    chip.mmio_write(1, 0xfee0_00b0, &[0; 4]);
    assert_eq!(chip.take_vector(1), Some(0x41), "still high");
    chip.set_line(5, Level::Low);
    chip.mmio_write(1, 0xfee0_00b0, &[0; 4]);
    assert_eq!(chip.take_vector(1), None);
    assert!(!chip.set_line(24, Level::High));
}

#[test]
fn the_pic_reaches_the_first_processor_by_extint() {
    let (chip, _) = machine(2);
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        assert!(chip.pio_out(port, value));
    }
    chip.set_line(0, Level::High);
    assert!(!chip.has_vector(0), "LINT0 is masked");
    chip.mmio_write(0, 0xfee0_0350, &0x700u32.to_le_bytes());
    assert!(chip.has_vector(0) && !chip.has_vector(1));
    assert_eq!(chip.take_vector(0), Some(0x20));
    assert!(!chip.has_vector(0));
}

#[test]
fn ipis_find_their_processors() {
    let (chip, woken) = machine(4);
    // All but the sender.
    chip.mmio_write(2, 0xfee0_0300, &0xc_00f0u32.to_le_bytes());
    assert_eq!(
        (0..4).map(|vcpu| chip.take_vector(vcpu)).collect::<Vec<_>>(),
        [Some(0xf0), Some(0xf0), None, Some(0xf0)]
    );
    woken.0.lock().unwrap().clear();
    // INIT and start-up for number 3.
    chip.mmio_write(0, 0xfee0_0310, &(3u32 << 24).to_le_bytes());
    chip.mmio_write(0, 0xfee0_0300, &0x4500u32.to_le_bytes());
    chip.mmio_write(0, 0xfee0_0300, &0x4699u32.to_le_bytes());
    assert!(chip.has_signals(3));
    assert_eq!(chip.take_signals(3), Signals { nmi: 0, init: true, startup: Some(0x99) });
    assert_eq!(*woken.0.lock().unwrap(), [3, 3]);
}

#[test]
fn messages_of_lowest_priority_have_one_receiver_each() {
    let (chip, _) = machine(4);
    for _ in 0..4 {
        assert!(chip.signal_msi(Msi { address: 0xfee0_f000 | 0xff << 12, data: 0x100 | 0x60 }));
    }
    assert!((0..4).all(|vcpu| chip.take_vector(vcpu) == Some(0x60)));
    assert!(!chip.signal_msi(Msi { address: 0xfee0_0000, data: 0x300 | 0x60 }));
}

#[test]
fn timers_have_deadlines() {
    let (chip, _) = machine(1);
    assert_eq!(chip.due(0), u64::MAX);
    chip.mmio_write(0, 0xfee0_0320, &(2u32 << 17 | 0xec).to_le_bytes());
    assert_eq!(chip.write_msr(0, MSR_TSC_DEADLINE, 1_000_000), Some(Ok(())));
    assert_eq!(chip.due(0), 1_000_000);
    assert_eq!(chip.read_msr(0, MSR_TSC_DEADLINE), Some(Ok(1_000_000)));
    chip.advance(0, 1_000_000);
    assert_eq!((chip.take_vector(0), chip.due(0)), (Some(0xec), u64::MAX));
    // The machine's timer: 1 ms, then its line pulses.
    redirect(&chip, 0, 0x30);
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        chip.pio_out(port, value);
    }
    let due = chip.due(0);
    assert_ne!(due, u64::MAX);
    while chip.clock.tsc() < due {
        std::hint::spin_loop();
    }
    chip.advance(0, due);
    chip.mmio_write(0, 0xfee0_00b0, &[0; 4]);
    assert_eq!(chip.take_vector(0), Some(0x30));
    assert_ne!(chip.due(0), due);
}

#[test]
fn x2apic_has_no_page_and_xapic_no_msrs() {
    let (chip, _) = machine(1);
    assert_eq!(chip.read_msr(0, 0x802), Some(Err(Denied)));
    let base = chip.read_msr(0, MSR_APIC_BASE).unwrap().unwrap();
    assert_eq!(chip.write_msr(0, MSR_APIC_BASE, base | 1 << 10), Some(Ok(())));
    assert_eq!(chip.read_msr(0, 0x802), Some(Ok(0)));
    assert!(!chip.mmio_read(0, 0xfee0_0020, &mut [0; 4]));
    assert_eq!(chip.read_msr(0, 0x10), None);
    // An interrupt for itself.
    assert_eq!(chip.write_msr(0, 0x83f, 0x55), Some(Ok(())));
    assert_eq!(chip.take_vector(0), Some(0x55));
}

#[test]
fn states_go_round() {
    let (chip, _) = machine(2);
    redirect(&chip, 5, 1 << 56 | 1 << 15 | 0x41);
    chip.set_line(5, Level::High);
    chip.pio_out(0x21, 0xfb);
    let (state, page) = (chip.save(), chip.save_lapic(1));
    let (other, _) = machine(2);
    assert!(other.restore(&state));
    other.restore_lapic(1, chip.read_msr(1, MSR_APIC_BASE).unwrap().unwrap(), &page, 0).unwrap();
    assert_eq!((other.save(), other.save_lapic(1)), (state, page));
    assert_eq!(other.take_vector(1), Some(0x41));
}

#[test]
fn words_are_read_in_parts() {
    let (chip, _) = machine(1);
    let mut byte = [0];
    assert!(chip.mmio_read(0, 0xfee0_0032, &mut byte));
    assert_eq!(byte, [5]);
    let mut wide = [0xff; 8];
    assert!(chip.mmio_read(0, 0xfee0_0030, &mut wide));
    assert_eq!(wide, [0x14, 0, 5, 0, 0, 0, 0, 0]);
    assert!(!chip.mmio_read(0, 0xfed0_0000, &mut byte));
    assert_eq!(chip.pio_in(0x3f8), None);
}
