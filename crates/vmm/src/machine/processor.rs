//! A vCPU's thread: runs, rests, or ends, as it is told.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use hv::{Backend, Bus, Exit, Kicker, Vcpu};

use super::Event;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Rest,
    Run,
    End,
}

struct Shared {
    order: Mutex<Order>,
    changed: Condvar,
    /// Held by the thread while the vCPU runs: whoever gets it has a vCPU at rest.
    vcpu: Mutex<Box<dyn Vcpu>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A vCPU with its thread, which rests at first. Dropping it ends the thread.
pub(crate) struct Processor {
    shared: Arc<Shared>,
    kicker: Kicker,
    thread: Option<JoinHandle<()>>,
}

impl Processor {
    /// `tell` is called on the vCPU's thread for what the machine has to know; the vCPU rests afterwards.
    pub(crate) fn start(
        backend: Backend,
        vcpu: Box<dyn Vcpu>,
        bus: Arc<dyn Bus + Send + Sync>,
        tell: impl Fn(Event) + Send + 'static,
    ) -> io::Result<Self> {
        let kicker = vcpu.kicker();
        let name = format!("{backend}-vcpu{}", vcpu.index());
        let shared =
            Arc::new(Shared { order: Mutex::new(Order::Rest), changed: Condvar::new(), vcpu: Mutex::new(vcpu) });
        let mine = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            hv::thread::begin();
            mine.serve(bus.as_ref(), tell);
        })?;
        Ok(Self { shared, kicker, thread: Some(thread) })
    }

    fn order(&self, order: Order) {
        *lock(&self.shared.order) = order;
        self.shared.changed.notify_all();
        if order != Order::Run {
            self.kicker.kick();
        }
    }

    /// Lets it run.
    pub(crate) fn run(&self) {
        self.order(Order::Run);
    }

    /// Asks it to rest; [`Self::vcpu`] waits until it does.
    pub(crate) fn rest(&self) {
        self.order(Order::Rest);
    }

    /// The vCPU, at rest. Only to be called after [`Self::rest`], or it waits for as long as the guest runs.
    pub(crate) fn vcpu(&self) -> MutexGuard<'_, Box<dyn Vcpu>> {
        lock(&self.shared.vcpu)
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    /// Waits until there is something to run; `false` at the end.
    fn ready(&self) -> bool {
        let mut order = lock(&self.order);
        while *order == Order::Rest {
            order = self.changed.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        *order == Order::Run
    }

    fn serve(&self, bus: &dyn Bus, tell: impl Fn(Event)) {
        while self.ready() {
            let mut vcpu = lock(&self.vcpu);
            // The order may have changed while the vCPU was in other hands.
            if *lock(&self.order) != Order::Run {
                continue;
            }
            let event = match vcpu.run(bus) {
                Ok(Exit::Kicked) => continue,
                Ok(Exit::Reset) => Event::Reset,
                Ok(Exit::Failed(why)) => Event::Failed(why),
                Err(error) => Event::Failed(format!("{error}: {}", error.source)),
            };
            drop(vcpu);
            *lock(&self.order) = Order::Rest;
            tell(event);
        }
    }
}
