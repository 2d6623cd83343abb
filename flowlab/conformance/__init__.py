"""What `flowlab.testing` runs: networks inside a number format, and programs and quantizers held against them."""
