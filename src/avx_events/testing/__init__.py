"""What helps to test code that uses this package, and engines that it is to run on."""
