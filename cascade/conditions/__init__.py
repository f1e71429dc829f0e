"""Stages that complete an image of which a part is given: colours for luma, holes."""
