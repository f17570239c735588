"""The commands of `moceir`, a file each."""
