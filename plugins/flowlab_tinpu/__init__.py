"""An NPU: number format, rules, quantizers, packing and simulator, and the devices that go with it."""
