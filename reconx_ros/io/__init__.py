"""Files and bytes: images, scene folders, PLY, bags, lens rectification."""
