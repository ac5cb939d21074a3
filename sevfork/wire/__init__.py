"""Host and guest speak here: lines on a channel, frames in lines, messages in frames."""
