"""What programs call: the command line has its own ways to start runs and to print logs."""
