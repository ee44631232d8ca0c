//! Virtio devices, their queues and transports.
