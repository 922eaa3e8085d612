"""Pictures that do not fit the device: decoded and cropped at random on the host, ahead of the step that takes them.

Training batches are made of the originals. All else (validation, test, real images as baselines) is of pictures that
are resized as a whole, once, into files that are mapped into memory.
"""
