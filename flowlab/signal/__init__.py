"""From recordings to features: reading, splitting, windowing and transforming, whole batches at a time."""
