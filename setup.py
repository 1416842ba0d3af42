"Packaging: everything is read from settings.ini, the file that nbdev reads too."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
cfg = ConfigParser()
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
extras = {k.removeprefix('extra_'): v.split() for k, v in cfg.items() if k.startswith('extra_')}
extras['dev'] = sorted({r for v in extras.values() for r in v} | set(cfg['dev_requirements'].split()))
readme = here/'README.md'

setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], license='Apache-2.0', license_files=['LICENSE'],
      author=cfg['author'], keywords=cfg['keywords'].split(),
      long_description=readme.read_text(encoding='utf-8') if readme.exists() else '', long_description_content_type='text/markdown',
      packages=find_packages(include=[cfg['lib_path'], cfg['lib_path']+'.*']), include_package_data=True, zip_safe=False,
      python_requires='>='+cfg['min_python'], install_requires=cfg['requirements'].split(), extras_require=extras,
      entry_points={'console_scripts': cfg['console_scripts'].split('\n')},
      classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3'])
