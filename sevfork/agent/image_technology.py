"""What the image this agent lies in was built for. The image build writes this file anew."""

TECHNOLOGY: str = "simulated"
